// Which client sockets of this worker hold which session.

struct SessionSockets {
  private struct Entry {
    var id: String
    var sockets: [Int32]
  }
  private var indexes: [String: Int32] = [:]
  private var entries: [Entry] = []
  private var free: [Int32] = []

  /// Adds a socket and returns the session's index.
  mutating func add(_ fd: Int32, to session: String) -> Int32 {
    if let index = indexes[session] {
      entries[Int(index)].sockets.append(fd)
      return index
    }
    let index: Int32
    if let reused = free.popLast() {
      index = reused
      entries[Int(index)] = Entry(id: session, sockets: [fd])
    } else {
      index = Int32(entries.count)
      entries.append(Entry(id: session, sockets: [fd]))
    }
    indexes[session] = index
    return index
  }

  /// Takes a socket off its session and returns the session's id.
  mutating func remove(_ fd: Int32, from index: Int32) -> String {
    let id = entries[Int(index)].id
    entries[Int(index)].sockets.removeAll { $0 == fd }
    if entries[Int(index)].sockets.isEmpty {
      indexes[id] = nil
      free.append(index)
    }
    return id
  }

  func sockets(of session: String) -> [Int32] { indexes[session].map { entries[Int($0)].sockets } ?? [] }
  func id(_ index: Int32) -> String { entries[Int(index)].id }

  func eachSession(_ body: (String, [Int32]) -> Void) {
    for (id, index) in indexes { body(id, entries[Int(index)].sockets) }
  }
}
