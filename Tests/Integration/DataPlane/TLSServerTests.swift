// TLSServerConnection against real TLS clients: every split of what comes in, every size of what goes out, bulk both ways,
// ends of every kind, and peers that do not speak TLS.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

@Suite("TLS server connections")
struct TLSServerTests {
  @Test("a ClientHello may be split at every byte")
  func everySplit() throws {
    let folder = try TLSFolder()
    let context = try folder.context()
    var split = 1
    var length = Int.max
    while split < length {
      let (near, far) = try tlsSocketPair()
      let client = TLSPeerThread {
        defer { close(far) }
        let stream = try anyClient(far)
        try stream.writeAll([1, 2, 3])
        return try stream.readAll(3)
      }
      let driver = try TLSServerDriver(context, near)
      // The record's own length field tells where the ClientHello ends.
      let header = try driver.receiveExactly(5)
      let hello = try header + driver.receiveExactly(Int(header[3]) << 8 | Int(header[4]))
      length = hello.count
      for part in [hello[..<split], hello[split...]] {
        guard case .wantRead = try driver.turn(Array(part), { $0.handshake($1) }) else {
          throw TLSTestFailure("a part of the handshake ended it, split at \(split)")
        }
        #expect(driver.window.inputRemaining == 0)
      }
      try driver.handshake()
      #expect(try driver.read(3) == [1, 2, 3])
      try driver.write([4, 5, 6])
      #expect(try client.value() == [4, 5, 6])
      split += 1
    }
    #expect(split > 100)
  }

  @Test("everything may come in pieces of any size", arguments: [1, 2, 3, 17, 1_000], [true, false])
  func pieces(piece: Int, detaches: Bool) throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let question = tlsPattern(40_000, seed: 1)
    let client = TLSPeerThread {
      defer { close(far) }
      let stream = try anyClient(far)
      try stream.writeAll(question)
      return try stream.readAll(2)
    }
    let driver = try TLSServerDriver(folder.context(), near)
    try driver.handshake(piece: piece, detaches: detaches)
    #expect(try driver.read(question.count, piece: piece, buffer: 777) == question)
    try driver.write([7, 8])
    #expect(try client.value() == [7, 8])
  }

  @Test("a handshake goes on through outputs of any size", arguments: [1, 2, 50, 200, 1_000])
  func smallOutputs(capacity: Int) throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let client = TLSPeerThread {
      defer { close(far) }
      let stream = try anyClient(far)
      // The server's tickets follow its handshake; they are there when the end is.
      #expect(throws: TLSError.self) { try stream.readAll(1) }
      return stream.version
    }
    let driver = try TLSServerDriver(folder.context(), near, outputCapacity: capacity)
    try driver.handshake()
    shutdown(near, Int32(SHUT_WR))
    #expect(try client.value() == "TLSv1.3")
  }

  @Test(
    "bulk arrives whole both ways, through outputs of any size", arguments: [129, 150, 1_000, 16_384, 20_000, 1 << 20],
    [true, false])
  func bulk(capacity: Int, detaches: Bool) throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    // Records of a few bytes through tiny outputs are slow, so those get less.
    let size = capacity < 1_000 ? 20_000 : 4 << 20
    let up = tlsPattern(size, seed: 2)
    let down = tlsPattern(size + 1, seed: 3)
    let client = TLSPeerThread {
      defer { close(far) }
      let stream = try anyClient(far)
      try stream.writeAll(up)
      return try stream.readAll(down.count)
    }
    let driver = try TLSServerDriver(folder.context(), near, outputCapacity: capacity)
    try driver.handshake(detaches: detaches)
    #expect(try driver.read(up.count, piece: 100_000, buffer: 300_000) == up)
    try driver.write(down)
    #expect(try client.value() == down)
  }

  @Test("an output that is partly in use takes what has room, and nothing when none has")
  func halfFull() throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let bytes = tlsPattern(200_000, seed: 4)
    let client = TLSPeerThread {
      defer { close(far) }
      return try anyClient(far).readAll(bytes.count)
    }
    let driver = try TLSServerDriver(folder.context(), near, outputCapacity: 40_000)
    try driver.handshake()
    var rest = bytes[...]
    var occupied = 0
    var refusals = 0
    while !rest.isEmpty {
      driver.occupied = occupied
      let taken = try driver.writeOnce(rest)
      if 40_000 - occupied <= TLSServerConnection.reserve {
        #expect(taken == 0)
        refusals += 1
      } else {
        #expect(taken > 0)
      }
      rest = rest.dropFirst(taken)
      occupied = (occupied + 3_331) % 40_001
    }
    driver.occupied = 40_000
    #expect(try driver.writeOnce([1, 2, 3]) == 0)
    #expect(try client.value() == bytes)
  }

  @Test("a request that came with the end of the handshake is found by one read")
  func earlyRequest() throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let client = TLSPeerThread {
      defer { close(far) }
      let stream = try anyClient(far)
      try stream.writeAll(Array("GET / HTTP/1.1\r\n\r\n".utf8))
      // The server looks only when all of it lies in its socket.
      shutdown(far, Int32(SHUT_WR))
      return try stream.readAll(2)
    }
    let driver = try TLSServerDriver(folder.context(), near)
    guard case .wantRead = try driver.turn(driver.receive(65_536), { $0.handshake($1) }) else {
      throw TLSTestFailure("done too early")
    }
    var flight: [UInt8] = []
    while true {
      let piece = try driver.receive(65_536)
      if piece.isEmpty { break }
      flight += piece
    }
    guard case .done = try driver.turn(flight, { $0.handshake($1) }) else { throw TLSTestFailure("not done") }
    driver.connection.detach()
    #expect(driver.connection.isDetached)
    #expect(try driver.readOnce() == .plain(Array("GET / HTTP/1.1\r\n\r\n".utf8)))
    #expect(try driver.readOnce() == .wantRead)
    try driver.write([79, 75])
    #expect(try client.value() == [79, 75])
  }

  @Test("close_notify comes after the bytes before it, and stays", arguments: [true, false])
  func clientCloses(detaches: Bool) throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let client = TLSPeerThread {
      let stream = try anyClient(far)
      try stream.writeAll([9, 9])
      stream.close()
      shutdown(far, Int32(SHUT_WR))
    }
    defer { close(far) }
    let driver = try TLSServerDriver(folder.context(), near)
    try driver.handshake(detaches: detaches)
    try client.value()
    var input: [UInt8] = []
    while true {
      let piece = try driver.receive(100)
      if piece.isEmpty { break }
      input += piece
    }
    #expect(try driver.readOnce(input) == .plain([9, 9]))
    #expect(try driver.readOnce() == .closed)
    #expect(try driver.readOnce() == .closed)
  }

  @Test("the peer sees our close_notify as an end, and a cut as an error")
  func serverCloses() throws {
    let folder = try TLSFolder()
    let context = try folder.context()
    for polite in [true, false] {
      let (near, far) = try tlsSocketPair()
      let client = TLSPeerThread { () -> Int in
        defer { close(far) }
        let stream = try anyClient(far)
        try stream.writeAll([1])
        return try stream.readAll(1).count
      }
      do {
        let driver = try TLSServerDriver(context, near)
        try driver.handshake()
        #expect(try driver.read(1) == [1])
        if polite {
          #expect(try driver.turn { $0.shutdown($1) })
        }
      }
      if polite {
        #expect(try client.value() == 0)
      } else {
        #expect { try client.value() } throws: { ($0 as? TLSError)?.kind == .connection }
      }
    }
  }

  @Test("close_notify needs room")
  func closeWithoutRoom() throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let client = TLSPeerThread {
      let stream = try anyClient(far)
      let count = try stream.readAll(1).count
      close(far)
      return count
    }
    let driver = try TLSServerDriver(folder.context(), near, outputCapacity: 1_000)
    try driver.handshake()
    driver.occupied = 1_000 - TLSServerConnection.reserve + 1
    #expect(try driver.turn { $0.shutdown($1) } == false)
    driver.occupied = 0
    #expect(try driver.turn { $0.shutdown($1) })
    #expect(try client.value() == 0)
  }

  @Test(
    "plain HTTP on the TLS port is told from other nonsense, and gets no TLS alert",
    arguments: [
      "GET / HTTP/1.1\r\n\r\n", "DELETE /x HTTP/1.1\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n",
      "OPTIONS * HTTP/1.1\r\n\r\n",
    ])
  func plainHTTP(request: String) throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    defer { close(far) }
    let driver = try TLSServerDriver(folder.context(), near)
    guard case .failed(let failure) = try driver.turn(Array(request.utf8), { $0.handshake($1) }) else {
      throw TLSTestFailure("HTTP passed as TLS")
    }
    #expect(failure.kind == .plainHTTP)
    #expect(driver.window.outputCount == 0)
    #expect(failure.reason == "a plain HTTP request came to the TLS port")
  }

  @Test("nonsense fails, stays failed, and says why")
  func nonsense() throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    defer { close(far) }
    let driver = try TLSServerDriver(folder.context(), near)
    guard case .failed(let failure) = try driver.turn(tlsPattern(300, seed: 5), { $0.handshake($1) }),
      case .failed(let again) = try driver.turn([], { $0.handshake($1) })
    else { throw TLSTestFailure("nonsense passed as TLS") }
    #expect(failure.kind == .notTLS)
    #expect(again == failure)
    #expect(try driver.readOnce() == .failed(failure))
    #expect(throws: TLSTestFailure.self) { try driver.writeOnce([1]) }
    #expect(try driver.turn { $0.shutdown($1) } == false)
  }

  @Test(
    "a record that was changed on the way fails the connection after the good bytes before it",
    arguments: [true, false])
  func corrupted(detaches: Bool) throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let client = TLSPeerThread {
      let stream = try anyClient(far)
      // Not with the handshake's last bytes, which OpenSSL may take together with what follows.
      #expect(try stream.readAll(1) == [0])
      try stream.writeAll([1, 2, 3])
      try stream.writeAll([4, 5, 6])
      shutdown(far, Int32(SHUT_WR))
      // The alert that the server answers ends this.
      #expect { try stream.readAll(1) } throws: { ($0 as? TLSError)?.description.contains("bad record mac") == true }
      close(far)
    }
    do {
      let driver = try TLSServerDriver(folder.context(), near)
      try driver.handshake(detaches: detaches)
      try driver.write([0])
      var input: [UInt8] = []
      while true {
        let piece = try driver.receive(1_000)
        if piece.isEmpty { break }
        input += piece
      }
      // Each record of three bytes has 5 + 3 + 1 + 16.
      try #require(input.count == 50)
      input[40] ^= 1
      #expect(try driver.readOnce(input) == .plain([1, 2, 3]))
      guard case .failed(let failure) = try driver.readOnce() else { throw TLSTestFailure("a changed record passed") }
      #expect(failure.kind == .other)
      #expect(!failure.reason.isEmpty)
    }
    try client.value()
  }

  @Test("two connections of one window do not mix, whatever the order of their turns")
  func sharedWindow() throws {
    let folder = try TLSFolder()
    let context = try folder.context()
    guard let window = TLSWindow() else { throw TLSTestFailure("no memory") }
    defer { window.free() }
    var output = [UInt8](repeating: 0, count: 65_536)
    var peers: [(fileDescriptor: Int32, connection: TLSServerConnection, client: TLSPeerThread<[UInt8]>)] = []
    for name in UInt8(0)..<4 {
      let (near, far) = try tlsSocketPair()
      let client = TLSPeerThread {
        defer { close(far) }
        let stream = try anyClient(far)
        try stream.writeAll([name])
        return try stream.readAll(1)
      }
      guard let connection = TLSServerConnection(context: context, window: window) else {
        throw TLSTestFailure("no memory")
      }
      peers.append((near, connection, client))
    }
    var states = [0, 0, 0, 0]
    while states != [2, 2, 2, 2] {
      for index in states.indices where states[index] < 2 {
        let peer = peers[index]
        var input = [UInt8](repeating: 0, count: 97)
        let count = unsafe recv(peer.fileDescriptor, &input, input.count, Int32(MSG_DONTWAIT))
        guard count > 0 else { continue }
        unsafe input.withUnsafeBytes { input in
          unsafe output.withUnsafeMutableBytes { output in
            unsafe window.setInput(input.baseAddress!, count: count)
            unsafe window.setOutput(output.baseAddress!, capacity: output.count)
            if states[index] == 0, case .done = peer.connection.handshake(window) {
              // One of each kind beside the other.
              if index % 2 == 0 { peer.connection.detach() }
              states[index] = 1
            }
            if states[index] == 1 {
              let plain = UnsafeMutableRawBufferPointer.allocate(byteCount: 10, alignment: 1)
              defer { unsafe plain.deallocate() }
              if case .bytes(1) = unsafe peer.connection.read(into: plain, window) {
                unsafe #expect(plain[0] == UInt8(index))
                _ = unsafe peer.connection.write(UnsafeRawBufferPointer(rebasing: plain[..<1]), window)
                states[index] = 2
              }
            }
            _ = unsafe send(peer.fileDescriptor, output.baseAddress!, window.outputCount, Int32(MSG_NOSIGNAL))
          }
        }
      }
    }
    for (index, peer) in peers.enumerated() {
      #expect(try peer.client.value() == [UInt8(index)])
      peer.connection.free()
      close(peer.fileDescriptor)
    }
  }
}
