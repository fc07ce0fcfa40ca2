// The entry point that libFuzzer calls: compiled by scripts/fuzz only, because SwiftPM cannot link it.
import FuzzBodies

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  let entry = unsafe Array(UnsafeBufferPointer(start: bytes, count: count))
  do throws(FuzzFailure) { try FuzzBody.run(entry) } catch { fatalError("\(error)") }
  return 0
}
