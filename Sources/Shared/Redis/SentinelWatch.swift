// Ends connections to a master that is none any more. One that vanished without a word would otherwise be noticed only by
// a command's time limit, and one that is cut off from the others but not from us would go on answering. One thread for
// each set of sentinels, as long as there are connections that follow them.
import Glibc
import State
import Synchronization

final class SentinelWatch: Sendable {
  private static let channel = "+switch-master"
  private static let connectMilliseconds = 500
  /// How often the sentinels are asked although they said nothing, and how long the thread outlives the last connection.
  private static let askMilliseconds = 2_000
  private static let pauseMilliseconds = 250

  private static let all = Mutex<[String: SentinelWatch]>([:])

  /// The one for these sentinels.
  static func of(_ url: RedisURL, _ sentinels: RedisURL.Sentinels) -> SentinelWatch {
    all.withLock { all in
      if let watch = all[url.description] { return watch }
      let watch = SentinelWatch(sentinels, tls: url.tls)
      all[url.description] = watch
      return watch
    }
  }

  private let sentinels: RedisURL.Sentinels
  private let tls: RedisURL.TLS?
  private struct State {
    var sockets: [Int32: RedisURL.Sentinels.Address] = [:]
    var isRunning = false
  }
  private let state = Mutex(State())

  private init(_ sentinels: RedisURL.Sentinels, tls: RedisURL.TLS?) {
    self.sentinels = sentinels
    self.tls = tls
  }

  /// From now on this socket is shut down when the master is not there any more.
  func follow(_ socket: Int32, to address: RedisURL.Sentinels.Address) {
    let starts = state.withLock { state in
      state.sockets[socket] = address
      defer { state.isRunning = true }
      return !state.isRunning
    }
    if starts { startThread { self.run() } }
  }

  /// Before the socket is closed: its number may then become another one's.
  func leave(_ socket: Int32) { state.withLock { state in _ = state.sockets.removeValue(forKey: socket) } }

  private func master(is address: RedisURL.Sentinels.Address) {
    state.withLock { state in
      for (socket, known) in state.sockets where known != address { _ = shutdown(socket, Int32(SHUT_RDWR)) }
    }
  }

  /// True when nobody has a connection: then the thread ends.
  private var isOver: Bool {
    state.withLock { state in
      if state.sockets.isEmpty { state.isRunning = false }
      return !state.isRunning
    }
  }

  private func run() {
    var index = Int.random(in: 0..<sentinels.addresses.count)
    while !isOver {
      index = (index + 1) % sentinels.addresses.count
      do throws(RedisError) {
        let interrupter = try RedisInterrupter()
        let listener = try connect(index, interrupter)
        try listener.subscribe([Self.channel])
        while !isOver {
          // What was said before this one listened, and the answer of a sentinel that hung.
          let asked = try connect(index, interrupter)
          if let address = try asked.run(SentinelLookup.master(sentinels.master)) { master(is: address) }
          asked.close()
          if let message = try listener.nextMessage(timeoutMilliseconds: Self.askMilliseconds) {
            // <master> <old address> <old port> <new address> <new port>
            let words = message.payload.split(separator: " ")
            if words.count == 5, words[0] == sentinels.master, let port = Int(words[4]) {
              master(is: RedisURL.Sentinels.Address(host: String(words[3]), port: port))
            }
          }
        }
      } catch {
        usleep(UInt32(Self.pauseMilliseconds * 1_000))
      }
    }
  }

  private func connect(_ index: Int, _ interrupter: RedisInterrupter) throws(RedisError) -> RedisConnection {
    try SentinelLookup.connect(
      to: sentinels.addresses[index], of: sentinels, tls: tls, milliseconds: Self.connectMilliseconds,
      interrupter: interrupter)
  }
}
