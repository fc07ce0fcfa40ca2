// Browsers with options of their own, with a leader, a real Redis and real Chromes: each session gets one, nobody else does,
// it goes with its session, and the pool's numbers hold.
import API
import Domain
import Glibc
import JSON
import Posix
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

@Suite struct ControlLaunchOptionsTests {
  private func create(_ api: RunningAPI, _ launch: String) async throws -> RunningAPI.Reply {
    try await api.ask("POST", "/api/session/create", body: #"{"launch":\#(launch)}"#)
  }
  private func instance(_ bench: ControlBench, of session: String) async throws -> InstanceRecord {
    let view = try #require(try await bench.client.run(bench.leases.get(session: session)))
    return try #require(try await bench.instances().first { $0.id == view.record.instance })
  }
  private func commandLine(_ record: InstanceRecord) -> [String] {
    let bytes = Kernel.read("/proc/\(record.pid ?? 0)/cmdline") ?? []
    return String(decoding: bytes, as: UTF8.self).split(separator: "\0").map { String($0) }
  }

  @Test func aSessionGetsABrowserAsItAskedFor() async throws {
    let bench = try ControlBench()
    let pool = bench.pool {
      $0.launches.arguments = ["--blink-settings=*"]
      $0.runtime = .process(ProcessSpec(arguments: ["--lang=fr"], environment: ["TZ": "Europe/Paris"]))
    }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    let spare = try await bench.settled(1)[0]
    let launch =
      #"{"args":["--blink-settings={id}"],"viewport":{"width":801,"height":602},"userAgent":"Me/1","locale":"de-CH","#
      + #""timeZone":"Asia/Tokyo","proxy":"http://127.0.0.1:9"}"#
    let made = try await create(api, launch)
    #expect(made.status == 200, "\(made.json.text)")
    let id = try #require(made.json["sessionId"]?.string)
    let own = try await instance(bench, of: id)
    #expect(own.id != spare.id && own.session == id)
    let words = commandLine(own)
    for word in [
      "--blink-settings={id}", "--window-size=801,602", "--user-agent=Me/1", "--lang=de-CH", "--accept-lang=de-CH,de",
      "--proxy-server=http://127.0.0.1:9",
    ] { #expect(words.contains(word), "\(word) in \(words)") }
    #expect(try #require(words.lastIndex(of: "--lang=de-CH")) > words.lastIndex(of: "--lang=fr") ?? .max)
    let variables = ProcessTable.environment(of: try #require(own.pid))
    #expect(variables["TZ"] == "Asia/Tokyo" && variables["LANGUAGE"] == "de_CH")
    let shown = try await api.ask("GET", "/api/session/\(id)").json
    #expect(shown["launch"] == (try JSON(parsing: launch)) && shown["instance"] == .string(own.id))

    // The others are as before: the spare one is there, and is what the next client gets.
    try await bench.settled(2)
    let plain = try #require(try await bench.acquire("plain"))
    #expect(plain.id == spare.id)
    try await bench.settled(3)
    try await bench.end("plain")

    // It goes with its session, whatever the pool's recycling says.
    #expect(try await api.ask("DELETE", "/api/session/\(id)").status == 200)
    try await eventually("it is gone") { try await !bench.instances().contains { $0.id == own.id } }
    #expect(!ProcessTable.isAlive(own.identity!))
    #expect(try await bench.events().contains { $0.type == "instance.removed" && $0.id == own.id })
    await control.stop(instances: true)
    #expect(try await bench.allocated().isEmpty && bench.processes().isEmpty && bench.directories.isEmpty)
  }

  @Test func idleBrowsersMakeRoomAndTheMaximumHolds() async throws {
    let bench = try ControlBench()
    let pool = bench.pool {
      $0.min = 2
      $0.max = 2
      $0.launches.instances = 1
      $0.queue.timeoutMilliseconds = 120_000
    }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(2)
    let first = try #require(try await create(api, #"{"locale":"de"}"#).json["sessionId"]?.string)
    try await bench.settled(2)
    // One more may not be; it waits for the first.
    async let second = create(api, #"{"locale":"fr"}"#)
    try await eventually("it waits") {
      try await bench.client.run(Launches(keys: bench.keys).pending(pool: "chrome")).count == 1
    }
    try await eventually("somebody is told") {
      try await bench.events().contains { $0.type == "pool.launch_options_full" }
    }
    #expect(try await bench.instances().count <= 2)
    #expect(try await api.ask("DELETE", "/api/session/\(first)").status == 200)
    let made = try await second
    #expect(made.status == 200, "\(made.json.text)")
    // An ordinary client has the other one.
    try await eventually("it is ready for one") { try await bench.acquire("plain") != nil }
    #expect(try await bench.instances().count <= 2)
    await control.stop(instances: true)
  }

  @Test func aClientThatLeavesTakesItsBrowserWithIt() async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.runtime = .process(ProcessSpec(environment: ["SLOW": "1"])) }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    // Whenever it leaves, nothing stays.
    for milliseconds in [0, 20, 60, 120, 300] {
      let peer = Peer(connectingTo: api.address)
      let body = #"{"launch":{"locale":"de"}}"#
      peer.send(
        "POST /api/session/create HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
      try await Task.sleep(for: .milliseconds(milliseconds))
      peer.reset()
    }
    // One whose answer was with the kernel already has its session: it is ended like a session.
    try await eventually("no request is left") {
      try await bench.client.run(Launches(keys: bench.keys).pending(pool: "chrome")).isEmpty
    }
    for view in try await bench.client.run(bench.leases.list(offset: 0, limit: 10)) {
      try await bench.end(view.record.id)
    }
    let left = try await bench.settled(1)
    #expect(left[0].session == nil)
    await control.stop(instances: true)
  }

  @Test func aLaunchThatFailsIsItsClientsAlone() async throws {
    let bench = try ControlBench()
    let root = bench.directory + "-snapshots"
    try Kernel.makeDirectory(root + "/shop/Default")
    defer { try? Kernel.removeTree(root) }
    let pool = bench.pool { $0.launches.snapshots = root }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    let refused = try await create(api, #"{"snapshot":"nobody"}"#)
    #expect(refused.status == 502)
    #expect(
      refused.json["error"]
        == "a browser with these launch options does not start: pool chrome has no snapshot \"nobody\"")
    #expect(try await create(api, #"{"args":["--x"]}"#).status == 400)
    // No pause for the others.
    _ = try #require(try await bench.acquire("plain"))
    try await bench.settled(2)

    try Kernel.write(Array("kept".utf8), to: root + "/shop/Default/marker")
    try Kernel.write([], to: root + "/shop/SingletonLock")
    #expect(unsafe symlink("/etc/passwd", root + "/shop/link") == 0)
    let id = try #require(try await create(api, #"{"snapshot":"shop"}"#).json["sessionId"]?.string)
    let profile = try await bench.directory + "/instances/" + instance(bench, of: id).id + "/profile"
    #expect(Kernel.read(profile + "/Default/marker") == Array("kept".utf8))
    #expect(Kernel.list(profile)?.contains("link") == false)
    await control.stop(instances: true)
    #expect(Kernel.read(root + "/shop/Default/marker") == Array("kept".utf8))
  }

  @Test func aNewLeaderLaunchesNoSecondOne() async throws {
    let bench = try ControlBench()
    let pool = bench.pool()
    let first = try bench.start("a", [pool])
    try await bench.settled(1)
    // The request of a client at another control plane, which goes on asking.
    var options = LaunchOptions()
    options.locale = "de"
    let launches = Launches(keys: bench.keys)
    func ask() async throws -> LaunchState {
      try await bench.client.run(
        launches.ask(session: "own", pool: "chrome", options: options, now: Clock.unixMilliseconds))
    }
    _ = try await ask()
    try await eventually("its launch has begun") {
      _ = try await ask()
      return try await bench.instances().contains { $0.session == "own" }
    }
    await first.kill()
    let second = try bench.start("b", [pool])
    var ready: String?
    try await eventually("it is ready") {
      if case .ready(let id) = try await ask() { ready = id }
      return ready != nil
    }
    let launched = Set(try await bench.instances().filter { $0.session == "own" }.map(\.id))
    #expect(launched == [try #require(ready)])
    let grant = try await bench.client.run(
      bench.leases.acquire(
        bench.session("own"), instance: ready, holder: nil, reserveMilliseconds: nil, queue: false,
        now: Clock.unixMilliseconds))
    guard case .granted = grant else { throw FixtureError("\(grant)") }
    try await bench.client.run(launches.withdraw(session: "own", pool: "chrome"))
    let mine = bench.processes().filter {
      $0.pid == $0.group && ProcessTable.environment(of: $0.pid)["LANGUAGE"] == "de"
    }
    #expect(mine.count == 1)
    await second.stop(instances: true)
    #expect(bench.processes().isEmpty)
  }
}
