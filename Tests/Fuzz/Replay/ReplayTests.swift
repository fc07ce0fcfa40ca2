// The whole corpus in every test run, and some thousand changed entries of it from a printed seed. What scripts/fuzz
// finds becomes an entry, so that it is found again.
import FuzzBodies
import Glibc
import TestSupport
import Testing

@Suite struct FuzzReplayTests {
  private func corpus() throws -> [(name: String, bytes: [UInt8])] {
    let folder = String(#filePath).split(separator: "/").dropLast(2).map { "/" + $0 }.joined() + "/Corpus"
    let directory = unsafe try #require(opendir(folder))
    defer { unsafe closedir(directory) }
    var entries: [(String, [UInt8])] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      guard !name.hasPrefix(".") else { continue }
      let file = unsafe open(folder + "/" + name, O_RDONLY)
      defer { close(file) }
      var bytes = [UInt8](repeating: 0, count: 65_536)
      let count = unsafe read(file, &bytes, bytes.count)
      entries.append((name, Array(bytes[..<max(0, count)])))
    }
    return entries.sorted { $0.0 < $1.0 }
  }

  @Test func everyEntryHolds() throws {
    let entries = try corpus()
    #expect(Set(entries.compactMap { $0.bytes.first.flatMap(FuzzBody.init) }) == Set(FuzzBody.allCases))
    for entry in entries {
      do throws(FuzzFailure) { try FuzzBody.run(entry.bytes) } catch { Issue.record("\(entry.name): \(error)") }
    }
  }

  @Test func changedEntriesHold() throws {
    let entries = try corpus().map(\.bytes)
    var mutator = Mutator(seed: SplitMix64.printedSeed(for: "changedEntriesHold"))
    for _ in 0..<3_000 {
      let entry = mutator.mutate(entries.randomElement(using: &mutator)!, with: entries)
      do throws(FuzzFailure) { try FuzzBody.run(entry) } catch {
        Issue.record("\(error): \(entry)")
        return
      }
    }
  }
}
