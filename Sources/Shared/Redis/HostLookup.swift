// Looks a host's name up within a time: getaddrinfo(3) has none of its own and may block for as long as name servers let
// it, while a thread that waits for Redis has sessions to answer for. Called by Dial only.
import Glibc
import Synchronization

package enum HostLookup {
  /// A socket address as the system calls want it.
  package struct Address: Sendable, Equatable {
    package var family: Int32
    package var bytes: [UInt8]
    package init(family: Int32, bytes: [UInt8]) {
      self.family = family
      self.bytes = bytes
    }
  }
  package enum Outcome: Sendable, Equatable {
    case found([Address])
    /// There is none, and why.
    case none(String)
    case late
    case interrupted
  }

  /// One lookup of a name; all who want that name wait for the same one, so that a name server that does not answer
  /// costs one thread for each name.
  private final class Flight: Sendable {
    let landed = Monitor<Outcome?>(nil)
  }
  private static let flights = Mutex<[String: Flight]>([:])
  /// How often who waits looks whether the program stops.
  private static let sliceMilliseconds = 50

  static func find(_ host: String, port: Int, interrupter: RedisInterrupter, _ deadline: Deadline) -> Outcome {
    find(
      host, port: port, milliseconds: deadline.remainingMilliseconds, isInterrupted: { interrupter.isInterrupted },
      lookup: { ask($0, port: $1, numeric: false) })
  }

  /// - Parameter lookup: blocks; runs on a thread of its own.
  package static func find(
    _ host: String, port: Int, milliseconds: Int, isInterrupted: () -> Bool,
    lookup: @escaping @Sendable (String, Int) -> Outcome
  ) -> Outcome {
    // An address needs no name server, and so no thread.
    if case .found(let addresses) = ask(host, port: port, numeric: true) { return .found(addresses) }
    let deadline = Deadline(milliseconds: milliseconds)
    let key = "\(host):\(port)"
    let (flight, isNew) = flights.withLock { flights -> (Flight, Bool) in
      if let flight = flights[key] { return (flight, false) }
      let flight = Flight()
      flights[key] = flight
      return (flight, true)
    }
    if isNew {
      startThread {
        let outcome = lookup(host, port)
        flights.withLock { $0[key] = nil }
        flight.landed.withLock(wake: true) { $0 = outcome }
      }
    }
    while true {
      let left = deadline.remainingMilliseconds
      if let outcome = flight.landed.wait(milliseconds: min(left, sliceMilliseconds), { $0 }) { return outcome }
      if isInterrupted() { return .interrupted }
      if left == 0 { return .late }
    }
  }

  private static func ask(_ host: String, port: Int, numeric: Bool) -> Outcome {
    var hints = unsafe addrinfo()
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    unsafe hints.ai_flags = AI_NUMERICSERV | (numeric ? AI_NUMERICHOST : 0)
    var found: UnsafeMutablePointer<addrinfo>?
    let code = unsafe getaddrinfo(host, String(port), &hints, &found)
    guard code == 0 else { return .none(unsafe String(cString: gai_strerror(code))) }
    defer { unsafe freeaddrinfo(found) }
    var addresses: [Address] = []
    var next = unsafe found
    while let entry = unsafe next {
      let bytes = unsafe UnsafeRawBufferPointer(start: entry.pointee.ai_addr, count: Int(entry.pointee.ai_addrlen))
      unsafe addresses.append(Address(family: entry.pointee.ai_family, bytes: Array(bytes)))
      unsafe next = entry.pointee.ai_next
    }
    return addresses.isEmpty ? .none("it has no address") : .found(addresses)
  }
}
