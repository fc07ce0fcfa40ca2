// What a process of a pool writes: the file `log` of its directory, to which it appends by itself, so that it needs no
// reader and outlives its control plane. One that grows is cut while it is written: its end stays as `log.1`, so that
// the lines before a crash are there whenever it comes. Used by ProcessRuntime.

enum InstanceLog {
  /// A log beyond this is cut when it is looked at next.
  static let maximumBytes = 8 << 20
  /// As much of its end stays, from the beginning of a line.
  static let keptBytes = 1 << 20

  static func older(_ path: String) -> String { path + ".1" }

  /// Cuts a log that has grown too long. The program goes on appending meanwhile: what it writes while the end is
  /// copied is copied too, and what it writes between that and the cut, some microseconds, is lost.
  static func cut(_ path: String, above limit: Int = maximumBytes, keeping kept: Int = keptBytes) {
    guard let size = Kernel.size(of: path), size > limit else { return }
    let start = size - min(kept, size)
    guard let read = Kernel.read(path, from: start, limit: kept) else { return }
    let tail = fromLineStart(read)
    var isKept = true
    do { try Kernel.write(tail, to: older(path)) } catch { isKept = false }
    // Of a program that writes faster than this reads, no more than was kept already.
    let more = Kernel.read(path, from: start + read.count, limit: kept) ?? []
    Kernel.empty(path)
    if isKept { Kernel.append(more, to: older(path)) } else { try? Kernel.write(tail + more, to: older(path)) }
  }

  /// The last bytes of both files.
  static func end(_ path: String, bytes: Int) -> [UInt8] {
    let newest = Kernel.readEnd(path, bytes: bytes) ?? []
    guard newest.count < bytes else { return newest }
    return (Kernel.readEnd(older(path), bytes: bytes - newest.count) ?? []) + newest
  }

  /// Without the end of a line whose beginning is not there. A line that is longer than all of it is cut.
  private static func fromLineStart(_ bytes: [UInt8]) -> [UInt8] {
    guard let newline = bytes.firstIndex(of: UInt8(ascii: "\n")) else { return bytes }
    return Array(bytes[(newline + 1)...])
  }
}
