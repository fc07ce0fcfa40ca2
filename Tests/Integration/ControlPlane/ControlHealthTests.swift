// Health as an operator and a client meet it: checks of all depths on real programs, crash loops, and what replicas report.
import Domain
import Foundation
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

/// A program that says and answers what a Chrome would, until it is told to hang behind its WebSocket. No real one can be
/// made to do that.
private final class HangingChrome: Sendable {
  let bench: ControlBench
  private var program: String { bench.directory + "/fake-chrome" }
  private var flag: String { bench.directory + "/hangs" }

  private static let source = #"""
    #!/usr/bin/env python3
    import os, socket, sys, threading, time
    port = int(next(a for a in sys.argv if a.startswith("--remote-debugging-port=")).split("=")[1])
    guid = "11111111-2222-3333-4444-555555555555"

    def serve(client):
        head = b""
        while b"\r\n\r\n" not in head:
            more = client.recv(4096)
            if not more:
                return client.close()
            head += more
        if not head.startswith(b"GET /devtools/"):
            print("asked", flush=True)
            body = b'{"webSocketDebuggerUrl":"ws://127.0.0.1:%d/devtools/browser/%s"}' % (port, guid.encode())
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return client.close()
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        client.recv(4096)
        while os.path.exists(os.environ["HANGS"]):
            time.sleep(0.01)
        body = b'{"id":1,"result":{"product":"Fake/1"}}'
        client.sendall(bytes([0x81, len(body)]) + body)
        client.close()

    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    print("DevTools listening on ws://127.0.0.1:%d/devtools/browser/%s" % (port, guid), flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
    """#

  init() throws {
    bench = try ControlBench()
    try FileManager.default.createDirectory(atPath: bench.directory, withIntermediateDirectories: true)
    try Self.source.write(toFile: program, atomically: true, encoding: .utf8)
    try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: program)
  }

  var pool: PoolSpec {
    var spec = bench.pool {
      $0.spare = 0
      // Nobody takes its place.
      $0.max = 1
      $0.stopGraceMilliseconds = 200
    }
    spec.runtime = .process(ProcessSpec(command: program, environment: ["HANGS": flag]))
    return spec
  }

  func setHangs(_ hangs: Bool) throws {
    if hangs {
      try Data().write(to: URL(fileURLWithPath: flag))
    } else {
      try FileManager.default.removeItem(atPath: flag)
    }
  }
}

extension ControlBench {
  /// Why an instance changed to this state, the newest first.
  fileprivate func reasons(_ state: InstanceState) async throws -> [String] {
    try await events().filter { $0.type == "instance.\(state.rawValue)" }.map(\.reason)
  }

  fileprivate func trouble(_ pool: String) async throws -> PoolTrouble? {
    try await client.run(Troubles(keys: keys).all())[pool]
  }
}

@Suite struct ControlHealthTests {
  @Test func aBrowserThatHangsBehindAServerThatAnswersIsFound() async throws {
    let fake = try HangingChrome()
    let bench = fake.bench
    var pool = fake.pool
    pool.health = HealthPolicy(
      intervalMilliseconds: 100, timeoutMilliseconds: 2_000, failures: 2, successes: 2,
      failuresBeforeReplacement: 1_000)
    pool.health.cdp = HealthPolicy.Depth(intervalMilliseconds: 100, timeoutMilliseconds: 150, failures: 2)
    let control = try bench.start("a", [pool])
    let first = try await bench.settled(1)[0]
    try fake.setHangs(true)
    try await eventually("it is unhealthy") { try await bench.instances(.unhealthy).map(\.id) == [first.id] }
    #expect(try await bench.reasons(.unhealthy).first == "CDP: Browser.getVersion: no answer in time")
    let answer = try HTTPProbe.get(
      host: first.host, port: first.port, path: "/json/version", deadline: Deadline(milliseconds: 30_000))
    #expect(answer.status == 200)
    try fake.setHangs(false)
    try await eventually("it is ready again") { try await bench.instances(.ready).map(\.id) == [first.id] }
    await control.stop(instances: true)
  }

  @Test func withoutDeepChecksNobodyNotices() async throws {
    let fake = try HangingChrome()
    var pool = fake.pool
    pool.health = HealthPolicy(intervalMilliseconds: 20, timeoutMilliseconds: 30_000, failures: 1)
    pool.health.cdp.intervalMilliseconds = 0
    let control = try fake.bench.start("a", [pool])
    let first = try await fake.bench.settled(1)[0]
    try fake.setHangs(true)
    // One that asked the browser as well would wait for its answer, and then fail.
    func asked() -> Int {
      let log = Kernel.read("\(fake.bench.directory)/instances/\(first.id)/log") ?? []
      return String(decoding: log, as: UTF8.self).split(separator: "\n").count { $0 == "asked" }
    }
    let before = asked()
    try await eventually("it was asked often") { asked() >= before + 20 }
    #expect(try await fake.bench.instances().map { "\($0.id) \($0.state)" } == ["\(first.id) ready"])
    try fake.setHangs(false)
    await control.stop(instances: true)
  }

  @Test func oneThatHangsForLongIsReplaced() async throws {
    let bench = try ControlBench()
    var pool = shellPool("exec python3 -m http.server {port} --bind 127.0.0.1")
    pool.health = HealthPolicy(
      intervalMilliseconds: 100, timeoutMilliseconds: 200, failures: 1, failuresBeforeReplacement: 3)
    pool.restart.stableAfterMilliseconds = 0
    // One that is stopped hears no SIGTERM.
    pool.stopGraceMilliseconds = 200
    let control = try bench.start("a", [pool])
    let first = try await bench.settled(1)[0]
    kill(pid_t(first.pid!), SIGSTOP)
    try await eventually("another one is ready") {
      try await bench.instances(.ready).contains { $0.id != first.id }
    }
    try await eventually("the first one is gone") { try await !bench.instances().contains { $0.id == first.id } }
    #expect(
      try await bench.events().contains { $0.id == first.id && $0.reason == "it failed 3 health checks in a row" })
    #expect(!ProcessTable.isAlive(first.identity!))
    await control.stop(instances: true)
  }
}

@Suite struct ControlReportTests {
  /// A server that only a report can bring a check to within the test's time.
  private func pool(_ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec {
    var pool = shellPool("exec python3 -m http.server {port} --bind 127.0.0.1")
    pool.health = HealthPolicy(intervalMilliseconds: 3_600_000, timeoutMilliseconds: 300, failures: 2)
    pool.health.tcp.intervalMilliseconds = 0
    pool.restart.stableAfterMilliseconds = 0
    // One that is stopped hears no SIGTERM.
    pool.stopGraceMilliseconds = 200
    change(&pool)
    return pool
  }

  private func report(_ bench: ControlBench, _ instance: String) async throws {
    let faults = InstanceFaults(instance: instance, counts: [.timeout: 2, .connect: 1])
    _ = try await bench.client.run(Reports(keys: bench.keys).report([faults]))
  }

  @Test func aReportedInstanceThatFailsItsCheckIsReplacedAtOnce() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [pool()])
    let first = try await bench.settled(1)[0]
    kill(pid_t(first.pid!), SIGSTOP)
    let reported = ContinuousClock.now
    try await report(bench, first.id)
    try await eventually("it is unhealthy") {
      try await bench.events().contains { $0.type == "instance.unhealthy" && $0.id == first.id }
    }
    let unhealthy = ContinuousClock.now
    try await eventually("another one is ready") {
      try await bench.instances(.ready).contains { $0.id != first.id }
    }
    print(
      "health: report → unhealthy \(unhealthy - reported), report → ready replacement \(ContinuousClock.now - reported)"
    )
    try await eventually("the first one is gone") { try await !bench.instances().contains { $0.id == first.id } }
    let events = try await bench.events()
    #expect(events.contains { $0.type == "instance.reported" && $0.reason == "1 connect, 2 timeout" })
    #expect(events.contains { $0.id == first.id && $0.reason == "it failed 2 health checks in a row" })
    await control.stop(instances: true)
  }

  @Test func aReportOfAHealthyInstanceCostsItNothing() async throws {
    let bench = try ControlBench()
    // However slow the machine is, it is well.
    let control = try bench.start("a", [pool { $0.health.timeoutMilliseconds = 30_000 }])
    let first = try await bench.settled(1)[0]
    let asked = { String(decoding: Kernel.read("\(bench.directory)/instances/\(first.id)/log") ?? [], as: UTF8.self) }
    let before = asked().split(separator: "\n").count
    let began = ContinuousClock.now
    for _ in 0..<50 { try await report(bench, first.id) }
    try await eventually("it was asked") { asked().split(separator: "\n").count > before }
    try await eventually("all reports are taken") { try bench.redis.command("EXISTS", bench.keys.reports) == .int(0) }
    #expect(try await bench.instances().map { "\($0.id) \($0.state)" } == ["\(first.id) ready"])
    // One a second at most.
    let more = asked().split(separator: "\n").count - before
    let seconds = (ContinuousClock.now - began).components.seconds
    #expect(more <= seconds + 2, "\(more) checks for 50 reports in \(seconds) s")
    await control.stop(instances: true)
  }

  @Test func reportsOfWhatIsUnknownAreDroppedAndTheirNumberIsBounded() async throws {
    let bench = try ControlBench()
    let reports = Reports(keys: bench.keys)
    try await report(bench, "nobody")
    #expect(try await bench.client.run(reports.take()).isEmpty)
    let many = (0..<Reports.limit + 10).map { "i\($0)" }
    for part in stride(from: 0, to: many.count, by: 500) {
      let ids = many[part..<min(part + 500, many.count)]
      try bench.redis.command(
        ["HSET", bench.keys.instances] + ids.flatMap { [$0, #"{"pool":"web"}"#] })
    }
    var dropped = 0
    for part in stride(from: 0, to: many.count, by: Reports.perReplica) {
      let faults = many[part..<min(part + Reports.perReplica, many.count)].map {
        InstanceFaults(instance: $0, counts: [.reset: 1])
      }
      dropped += try await bench.client.run(reports.report(faults))
    }
    #expect(dropped == 10)
    // What waits already still counts, and a replica's list is cut.
    #expect(try await bench.client.run(reports.report([InstanceFaults(instance: "i0", counts: [.reset: 4])])) == 0)
    let taken = try await bench.client.run(reports.take())
    #expect(taken.count == Reports.limit)
    #expect(taken.first { $0.instance == "i0" }?.counts == [.reset: 5])
    let all = many.map { InstanceFaults(instance: $0, counts: [.connect: 1]) }
    #expect(try await bench.client.run(reports.report(all)) == 0)
    #expect(try await bench.client.run(reports.take()).count == Reports.perReplica)
  }
}

@Suite struct ControlCrashLoopTests {
  /// A program that fails until a file is there, and notes when two of it run at once.
  private func broken(_ bench: ControlBench) -> PoolSpec {
    let directory = bench.directory
    var spec = shellPool(
      """
      if [ -e \(directory)/mended ]; then exec python3 -m http.server {port} --bind 127.0.0.1; fi
      mkdir \(directory)/lock 2> /dev/null || echo x >> \(directory)/overlaps
      echo x >> \(directory)/starts
      echo starting; echo no disk left >&2; sleep 0.05; rmdir \(directory)/lock 2> /dev/null; exit 3
      """)
    spec.min = 3
    spec.restart = RestartPolicy(initialMilliseconds: 20, maximumMilliseconds: 300, crashLoopAfter: 4)
    return spec
  }

  private func lines(_ bench: ControlBench, _ file: String) -> Int {
    Kernel.read("\(bench.directory)/\(file)")?.count { $0 == 0x0A } ?? 0
  }

  @Test func aBrokenProgramIsShownWithItsLastLinesTriedOneAtATimeAndComesBack() async throws {
    let bench = try ControlBench()
    let spec = broken(bench)
    let control = try bench.start("a", [spec])
    // First its state is written, then the event.
    var told: State.Event?
    try await eventually("it is said to be crash looping") {
      told = try await bench.events().first { $0.type == "pool.crash_looping" }
      return told != nil
    }
    let event = try #require(told)
    #expect(event.id == "shell" && event.fields["log"] == "starting\nno disk left")
    let shown = try #require(try await bench.trouble("shell"))
    #expect(shown.state == "crash_looping")
    #expect(shown.log == ["starting", "no disk left"] && shown.failedLaunches >= 4 && shown.since > 0)
    #expect(shown.reason.hasPrefix("its process ended before it was ready") && shown.instance.hasPrefix("shell-"))
    #expect(shown.nextLaunchAt > shown.lastFailureAt)

    // Those that had begun together end; from then on there is one at a time.
    let begun = lines(bench, "starts")
    try await eventually("further launches failed") { lines(bench, "starts") >= begun + 3 }
    try? Kernel.removeTree("\(bench.directory)/overlaps")
    let alone = lines(bench, "starts")
    try await eventually("further launches failed") { lines(bench, "starts") >= alone + 5 }
    #expect(lines(bench, "overlaps") == 0)
    #expect(try await bench.instances(.starting).count <= 1)
    #expect(try await bench.allocated().count <= 2, "one of the launch, one that is given back")

    // The next leader goes on counting instead of beginning anew.
    let failures = try #require(try await bench.trouble("shell")).failedLaunches
    await control.kill()
    let next = try bench.start("b", [spec])
    await next.supervisor.waitToLead()
    try await eventually("it counts on") { try await (bench.trouble("shell")?.failedLaunches ?? 0) > failures + 1 }
    #expect(try await bench.events().count { $0.type == "pool.crash_looping" } == 1)
    #expect(lines(bench, "overlaps") == 0)

    try Data().write(to: URL(fileURLWithPath: bench.directory + "/mended"))
    try await bench.settled(3)
    try await eventually("nothing is wrong any more") { try await bench.trouble("shell") == nil }
    try await eventually("that is told") {
      try await bench.events().contains { $0.type == "pool.recovered" && $0.id == "shell" }
    }
    await next.stop(instances: true)
  }

  @Test func oneThatBecomesReadyAndDiesIsACrashLoopToo() async throws {
    let bench = try ControlBench()
    // It says goodbye once it is ready, and nobody had asked it to.
    var spec = shellPool(
      "python3 -m http.server {port} --bind 127.0.0.1 & "
        + "until [ -e \(bench.directory)/end-{id} ]; do sleep 0.02; done; kill $!; exit 0")
    spec.restart = RestartPolicy(initialMilliseconds: 10, maximumMilliseconds: 60_000, crashLoopAfter: 2)
    let control = try bench.start("a", [spec])
    try await eventually("it is said to be crash looping") {
      for record in try await bench.instances(.ready) {
        try Kernel.write([], to: bench.directory + "/end-" + record.id)
      }
      return try await bench.trouble("shell")?.state == "crash_looping"
    }
    let shown = try #require(try await bench.trouble("shell"))
    #expect(shown.earlyDeaths >= 2 && shown.failedLaunches == 0)
    #expect(shown.reason == "its process exited with status 0")
    await control.stop(instances: true)
  }

  @Test func withoutAPortAPoolWaitsButIsNotCalledBroken() async throws {
    let bench = try ControlBench(range: TestPorts.take(1))
    var spec = shellPool("exec python3 -m http.server {port} --bind 127.0.0.1")
    spec.min = 2
    spec.restart = RestartPolicy(initialMilliseconds: 1, maximumMilliseconds: 20, crashLoopAfter: 2)
    let control = try bench.start("a", [spec])
    try await eventually("it was refused often") { try await (bench.trouble("shell")?.refusals ?? 0) >= 4 }
    #expect(try await bench.trouble("shell")?.state == "backing_off")
    #expect(try await bench.trouble("shell")?.reason.contains("make the range larger") == true)
    await control.stop(instances: true)
  }
}
