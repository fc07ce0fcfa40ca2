// Names to addresses by the system's resolver (getaddrinfo(3)), which blocks for as long as its name servers let it:
// lookups run on threads of their own, and who asks waits with a limit. Called for fixed servers, never by a worker.
import Glibc
import Synchronization

package enum NameLookup {
  /// More addresses of one name are left out.
  private static let maximumAddresses = 256
  /// Lookups that run at once; the system's resolver opens a socket for each.
  private static let maximumThreads = 32

  /// What a name stands for: address literals in ascending order, or why there are none.
  package struct Answer: Sendable, Equatable {
    package var addresses: [String]
    package var problem: String?
    package init(addresses: [String], problem: String? = nil) {
      self.addresses = addresses
      self.problem = problem
    }
  }

  /// Asks the system; blocks. The IPv4 addresses, or those of IPv6 when there are no others: most servers that have
  /// both are one server, which would be counted twice.
  package static func addresses(of name: String) -> Answer {
    var hints = unsafe addrinfo()
    unsafe hints.ai_family = AF_UNSPEC
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>? = nil
    let code = unsafe getaddrinfo(name, nil, &hints, &found)
    guard code == 0 else {
      let text =
        code == EAI_SYSTEM ? unsafe String(cString: strerror(errno)) : unsafe String(cString: gai_strerror(code))
      return Answer(addresses: [], problem: text)
    }
    defer { unsafe freeaddrinfo(found) }
    var four: Set<String> = []
    var six: Set<String> = []
    var next = unsafe found
    while let entry = unsafe next {
      var text = [CChar](repeating: 0, count: 128)
      // A link-local address needs its zone, which no connection of ours has.
      if unsafe getnameinfo(
        entry.pointee.ai_addr, entry.pointee.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0
      {
        let address = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        if unsafe entry.pointee.ai_family == AF_INET { four.insert(address) }
        if unsafe entry.pointee.ai_family == AF_INET6, !address.contains("%") { six.insert(address) }
      }
      unsafe next = entry.pointee.ai_next
    }
    let all = four.isEmpty ? six : four
    return Answer(
      addresses: Array(all.sorted().prefix(maximumAddresses)), problem: all.isEmpty ? "it has no address" : nil)
  }

  /// The answers that came within the time; names whose lookup goes on are missing. Their threads end by themselves.
  /// - Parameter lookup: for tests.
  package static func resolve(
    _ names: [String], withinMilliseconds limit: Int,
    lookup: @escaping @Sendable (String) -> Answer = { addresses(of: $0) }
  ) -> [String: Answer] {
    guard !names.isEmpty else { return [:] }
    let errand = Errand(names: names)
    for _ in 0..<min(names.count, maximumThreads) {
      _ = Thread.start("name-lookup") {
        while let name = errand.next() { errand.put(name, lookup(name)) }
      }
    }
    let deadline = Clock.monotonicMilliseconds + limit
    while true {
      let left = deadline - Clock.monotonicMilliseconds
      if errand.isComplete || left <= 0 { return errand.close() }
      errand.wait(milliseconds: left)
    }
  }

  private final class Errand: Sendable {
    private struct State {
      var names: ArraySlice<String>
      var answers: [String: Answer] = [:]
    }
    private let state: Mutex<State>
    private let count: Int
    private let doorbell = Doorbell()

    init(names: [String]) {
      count = Set(names).count
      state = Mutex(State(names: names[...]))
    }
    deinit { doorbell.close() }

    func next() -> String? { state.withLock { $0.names.popFirst() } }
    func put(_ name: String, _ answer: Answer) {
      state.withLock { $0.answers[name] = answer }
      doorbell.ring()
    }
    var isComplete: Bool { state.withLock { $0.answers.count >= count } }
    /// Nothing more is begun.
    func close() -> [String: Answer] {
      state.withLock { state in
        state.names = []
        return state.answers
      }
    }
    func wait(milliseconds: Int) {
      var entry = pollfd(fd: doorbell.descriptor, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&entry, 1, Int32(clamping: milliseconds))
      doorbell.silence()
    }
  }
}
