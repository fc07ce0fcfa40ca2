// The fixed servers of a routes file: their names, whether they are well, and the table that follows from both.
import Glibc
import Posix
import RouteFiles
import Routing
import Synchronization
import TestSupport
import Testing

@testable import RouteFeed

@Suite("servers of a routes file") struct RouteFeedServersTests {
  /// A watch that changes within an expectation.
  private final class Watch {
    var value: ServerWatch
    init(_ value: ServerWatch) { self.value = value }
    var table: RoutingTable { value.table }
    var nextCheck: Int? { value.nextCheck }
    func takeDue(limit: Int = 9, now: Int) -> [ServerProbe] { value.takeDue(limit: limit, now: now) }
    func checked(_ id: String, problem: String?, now: Int) -> Bool? { value.checked(id, problem: problem, now: now) }
    @discardableResult func resolved(_ answers: [String: [String]], now: Int) -> Bool {
      value.resolved(answers, now: now)
    }
  }
  private func watch(_ text: String, interval: Int = 30_000) throws -> Watch {
    let watch = Watch(ServerWatch(try RouteFile(text, file: "f"), intervalMilliseconds: interval))
    watch.resolved([:], now: 0)
    return watch
  }
  private func states(_ watch: Watch) -> [String] { watch.table.instances.map { "\($0.id) \($0.state)" } }

  // MARK: Health, on a clock of its own

  @Test("a server is out after the failures that decide, and back after as many successes")
  func thresholds() throws {
    let watch = try watch(
      #"{"backends":[{"host":"10.0.0.1","port":1}],"health":{"failures":3,"successes":2,"path":"/up"}}"#)
    let id = "backends/10.0.0.1:1"
    // All are asked at once at the beginning.
    #expect(watch.nextCheck == 0)
    #expect(
      watch.takeDue(now: 0) == [
        ServerProbe(
          id: id, host: "10.0.0.1", port: 1, name: "10.0.0.1", path: "/up", expect: [200...399], proxyProtocol: 0,
          timeoutMilliseconds: 2_000)
      ])
    #expect(watch.takeDue(now: 0).isEmpty && watch.nextCheck == nil)
    #expect(watch.checked(id, problem: nil, now: 10) == nil)
    #expect(watch.nextCheck == 30_010)
    #expect(watch.takeDue(now: 30_009).isEmpty)

    // In doubt it is asked again soon; one good answer ends the doubt.
    var now = 30_010
    func ask(_ problem: String?) -> Bool? {
      now = watch.nextCheck!
      #expect(watch.takeDue(now: now).count == 1)
      return watch.checked(id, problem: problem, now: now)
    }
    for problem in ["a", "b", nil, "c"] { #expect(ask(problem) == nil) }
    #expect(watch.nextCheck == now + 1_000)
    #expect(ask("d") == nil && states(watch) == ["\(id) ready"] && watch.value.unhealthy == 0)
    #expect(ask("e") == false && states(watch) == ["\(id) unhealthy"] && watch.value.unhealthy == 1)
    #expect(watch.nextCheck == now + 30_000)
    #expect(ask("f") == nil && ask(nil) == nil && watch.nextCheck == now + 1_000)
    #expect(ask(nil) == true && states(watch) == ["\(id) ready"])
    // The outcome of a check of somebody who is gone.
    #expect(watch.checked("other", problem: "x", now: now) == nil)
  }

  @Test("each pool has its own checks, and only declared ones are made for records")
  func whoIsChecked() throws {
    let seed = try watch(
      """
      health: {intervalMilliseconds: 500}
      routes:
        - {path: /a, servers: [{url: "http://10.0.0.1"}]}
        - {path: /b, servers: [{url: "http://10.0.0.2"}], health: {intervalMilliseconds: 0}}
      """)
    #expect(seed.takeDue(now: 0).map(\.host) == ["10.0.0.1"])
    _ = seed.checked(seed.table.instances[0].id, problem: nil, now: 0)
    #expect(seed.nextCheck == 500)

    let records = #"{"pools":{"p":{}},"instances":{"i":{"pool":"p","host":"10.0.0.1","port":1}}}"#
    #expect(try watch(records).nextCheck == nil)
    let off = try watch(#"{"backends":[{"host":"10.0.0.1","port":1}]}"#, interval: 0)
    #expect(off.nextCheck == nil)
    // What a file says is draining stays so.
    let drained = try watch(
      #"{"pools":{"p":{}},"health":{},"instances":{"i":{"pool":"p","host":"10.0.0.1","port":1,"state":"draining"}}}"#)
    #expect(drained.nextCheck == nil && states(drained) == ["i draining"])
  }

  @Test("no more checks are made at once than asked for")
  func limited() throws {
    let watch = try watch(
      #"{"backends":["# + (1...5).map { #"{"host":"10.0.0.1","port":\#($0)}"# }.joined(separator: ",") + "]}")
    #expect(watch.takeDue(limit: 3, now: 0).count == 3)
    #expect(watch.takeDue(limit: 3, now: 0).count == 2)
  }

  // MARK: Names

  @Test("every address of a name is an instance; a lookup without an answer changes nothing")
  func names() throws {
    let watch = try watch(#"{"backends":[{"host":"web","port":1,"weight":7},{"host":"10.0.0.9","port":1}]}"#)
    #expect(watch.value.names == ["web"] && watch.value.namesWithoutAddress == ["web"])
    #expect(watch.table.instances.map(\.id) == ["backends/10.0.0.9:1"])
    #expect(watch.resolved(["web": ["10.0.0.1", "10.0.0.2"]], now: 5))
    #expect(
      watch.table.instances.map { "\($0.id) \($0.host) \($0.weight)" } == [
        "backends/10.0.0.9:1 10.0.0.9 1", "backends/web:1@10.0.0.1 10.0.0.1 7", "backends/web:1@10.0.0.2 10.0.0.2 7",
      ])
    #expect(watch.value.namesWithoutAddress.isEmpty)
    #expect(Set(watch.takeDue(now: 5).map(\.name)) == ["web", "10.0.0.9"])
    #expect(
      !watch.resolved(["web": []], now: 6) && !watch.resolved([:], now: 6)
        && !watch.resolved(["web": ["10.0.0.1", "10.0.0.2"]], now: 6))
    #expect(watch.resolved(["web": ["10.0.0.2"]], now: 7))
    #expect(watch.table.instances.count == 2)
  }

  @Test("what is known of names and servers survives a new reading of the file")
  func replaced() throws {
    let watch = try watch(#"{"backends":[{"host":"web","port":1},{"host":"gone","port":1}],"health":{"failures":1}}"#)
    watch.resolved(["web": ["10.0.0.1"], "gone": ["10.0.0.2"]], now: 0)
    #expect(watch.takeDue(now: 0).count == 2)
    #expect(watch.checked("backends/web:1@10.0.0.1", problem: "x", now: 0) == false)
    watch.value.replace(
      try RouteFile(#"{"backends":[{"host":"web","port":1},{"host":"new","port":1}]}"#, file: "f"), [:], now: 1)
    #expect(states(watch) == ["backends/web:1@10.0.0.1 unhealthy"])
    #expect(watch.value.addresses == ["web": ["10.0.0.1"]] && watch.value.namesWithoutAddress == ["new"])
  }

  @Test("lookups run side by side and have a limit of time")
  func lookups() {
    let release = DispatchGate()
    defer { release.open() }
    let answers = NameLookup.resolve(["a", "hangs", "b", "a"], withinMilliseconds: 2_000) { name in
      if name == "hangs" { release.wait() }
      return NameLookup.Answer(addresses: ["address of \(name)"])
    }
    #expect(answers.mapValues(\.addresses) == ["a": ["address of a"], "b": ["address of b"]])
    #expect(NameLookup.resolve([], withinMilliseconds: 60_000) == [:])
  }

  @Test("the system knows this host and not what cannot be")
  func system() {
    let local = NameLookup.addresses(of: "localhost")
    #expect(local.addresses == ["127.0.0.1"] || local.addresses == ["::1"])
    let none = NameLookup.addresses(of: "no-such-host.invalid")
    #expect(none.addresses.isEmpty && none.problem != nil)
  }

  // MARK: Probes

  private func probe(
    _ address: SocketAddress, path: String?, expect: [ClosedRange<Int>] = [200...399], proxyProtocol: Int = 0,
    timeout: Int = 10_000
  ) -> ServerProbe {
    ServerProbe(
      id: "\(address) \(path ?? "") \(timeout)", host: address.host, port: address.port, name: "web.test", path: path,
      expect: expect, proxyProtocol: proxyProtocol, timeoutMilliseconds: timeout)
  }

  @Test("a connection, a status, and all that can be wrong with them")
  func probes() throws {
    let instance = ScriptedInstance()
    let port = instance.address
    // It listens no longer than this line.
    let nobody = ScriptedInstance().address

    func ask(_ answer: String?, expect: [ClosedRange<Int>] = [200...399]) throws -> String?? {
      let server = TestThread {
        guard let peer = instance.accept() else { return "no connection" }
        let head = peer.receive(upTo: "\r\n\r\n") ?? ""
        if let answer { peer.send(answer) }
        return head
      }
      let probe = probe(port, path: "/up?x", expect: expect)
      let outcome = ServerProbes.run([probe])[probe.id]
      #expect(try server.join().hasPrefix("GET /up?x HTTP/1.1\r\nHost: web.test:\(port.port)\r\n"))
      return outcome
    }
    let server = TestThread { instance.accept()?.receive(upTo: "\r\n") ?? "" }
    _ = ServerProbes.run([probe(port, path: "/", proxyProtocol: 1, timeout: 1_000)])
    #expect(try server.join() == "PROXY UNKNOWN\r\n")
    #expect(try ask("HTTP/1.1 200 OK\r\n\r\n") == .some(nil))
    #expect(try ask("HTTP/1.0 399 \r\n\r\n") == .some(nil))
    #expect(try ask("HTTP/1.1 503 Busy\r\n\r\n") == "status 503")
    #expect(try ask("HTTP/1.1 199 \r\n\r\n") == "status 199")
    #expect(try ask("HTTP/1.1 401 \r\n\r\n", expect: [200...204, 401...401]) == .some(nil))
    #expect(try ask("HTTP/1.1 302 \r\n\r\n", expect: [200...204, 401...401]) == "status 302")
    #expect(try ask("SSH-2.0-x\r\n\r\n") == "it does not speak HTTP")
    #expect(try ask("HTTP/1.1") == "it closed without an answer")

    let outcomes = ServerProbes.run([
      probe(port, path: nil), probe(nobody, path: nil), probe(nobody, path: "/"), probe(port, path: "/", timeout: 500),
    ])
    #expect(outcomes["\(port)  10000"] == .some(nil))
    #expect(outcomes["\(nobody)  10000"] == "no connection: Connection refused")
    #expect(outcomes["\(nobody) / 10000"] == "no connection: Connection refused")
    #expect(outcomes["\(port) / 500"] == "no answer within 500 ms")
  }

  @Test("a slow answer comes in pieces")
  func pieces() throws {
    let instance = ScriptedInstance()
    let server = TestThread {
      guard let peer = instance.accept() else { return }
      _ = peer.receive(upTo: "\r\n\r\n")
      for piece in ["HTT", "P/1.1 2", "04 No Content\r\n\r\n"] {
        peer.send(piece)
        usleep(5_000)
      }
    }
    let probe = probe(instance.address, path: "/")
    #expect(ServerProbes.run([probe])[probe.id] == .some(nil))
    try server.join()
  }

  // MARK: Together

  @Test("a server that stops answering leaves the table, and comes back")
  func failover() throws {
    let stays = ScriptedInstance()
    var comes: ScriptedInstance? = ScriptedInstance()
    let address = try #require(comes?.address)
    let file = RoutesFile(
      #"{"backends":[{"host":"127.0.0.1","port":\#(stays.address.port)},{"host":"127.0.0.1","port":\#(address.port)}]}"#
    )
    let coordinator = try FileCoordinator(path: file.path, intervalMilliseconds: 20)
    let worker = FeedWorker()
    coordinator.start(inboxes: [worker])
    defer { coordinator.stop(timeoutMilliseconds: 10_000) }
    let id = "backends/127.0.0.1:\(address.port)"
    func state() -> InstanceState? { worker.table?.instance(id: id)?.state }
    try waitUntil("both were asked") { coordinator.counters.healthChecks >= 2 }
    #expect(state() == .ready && worker.replicas == [1])
    comes = nil
    try waitUntil("it is out") { state() == .unhealthy }
    #expect(coordinator.counters.unhealthyServers == 1 && coordinator.counters.healthChecksFailed >= 2)
    #expect(coordinator.table?.instance(id: id)?.state == .unhealthy)
    #expect(worker.table?.instances.count { $0.state == .ready } == 1)
    let again = Socket.listen(address, backlog: 16, sharesPort: false, defersAccept: false)
    defer { Socket.close(Int32(again)) }
    #expect(again >= 0)
    try waitUntil("it is back") { state() == .ready }
    #expect(coordinator.counters.unhealthyServers == 0)
    #expect(coordinator.stop(timeoutMilliseconds: 10_000))
  }

  @Test("names are looked up at the start, now and then, and at each reading of the file")
  func lookedUp() throws {
    let known = Mutex<[String: [String]]>(["a": ["127.0.0.1"]])
    let file = RoutesFile(
      #"{"backends":[{"host":"a","port":1},{"host":"b","port":2}],"health":{"intervalMilliseconds":0}}"#)
    let coordinator = try FileCoordinator(path: file.path, intervalMilliseconds: 20) { name in
      NameLookup.Answer(addresses: known.withLock { $0[name] } ?? [], problem: "unknown")
    }
    let worker = FeedWorker()
    coordinator.start(inboxes: [worker])
    defer { coordinator.stop(timeoutMilliseconds: 10_000) }
    func hosts() -> [String] { worker.table?.instances.map(\.host) ?? [] }
    #expect(hosts() == ["127.0.0.1"])
    known.withLock { $0["b"] = ["127.0.0.3", "127.0.0.2"] }
    try waitUntil("b has addresses") { hosts() == ["127.0.0.1", "127.0.0.2", "127.0.0.3"] }
    known.withLock { $0["a"] = ["127.0.0.4"] }
    try waitUntil("a has moved") { hosts() == ["127.0.0.4", "127.0.0.2", "127.0.0.3"] }
    file.write(#"{"backends":[{"host":"c","port":1}]}"#)
    known.withLock { $0["c"] = ["127.0.0.5"] }
    try coordinator.reload()
    #expect(hosts() == ["127.0.0.5"])
  }
}

/// Holds threads up until it is opened.
private final class DispatchGate: Sendable {
  private let doorbell = Doorbell()
  func wait() {
    var entry = pollfd(fd: doorbell.descriptor, events: Int16(POLLIN), revents: 0)
    _ = unsafe poll(&entry, 1, 60_000)
  }
  func open() { doorbell.ring() }
}

/// A file of routes that goes with its test.
final class RoutesFile {
  let path = "/tmp/berth-routes-\(getpid())-\(UInt32.random(in: 0 ... .max)).json"
  init(_ text: String) { write(text) }
  func write(_ text: String) {
    let file = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    unsafe #expect(Glibc.write(file, text, text.utf8.count) == text.utf8.count)
    close(file)
  }
  deinit { unsafe unlink(path) }
}
