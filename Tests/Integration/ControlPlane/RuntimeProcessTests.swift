// The process runtime with real programs and a real Chrome: what starts, what is said about what does not, and that
// nothing at all is left afterwards.
import Domain
import Glibc
import JSON
import Routing
import Runtimes
import Synchronization
import Testing

/// A state directory of a test's own with a runtime on it.
final class RuntimeBench: Sendable {
  let directory: String
  let runtime: ProcessRuntime

  init(_ name: String) throws {
    directory = "/tmp/berth-test-\(Kernel.processID)-\(name)-\(UInt32.random(in: 0...UInt32.max))"
    runtime = try ProcessRuntime(
      stateDirectory: directory,
      environment: ["PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SECRET": "not for instances"])
  }
  /// What a test that failed has left.
  deinit {
    for entry in ProcessTable.read().entries.values
    where ProcessTable.environment(of: entry.pid)["BERTH_STATE"] == directory { kill(pid_t(entry.pid), SIGKILL) }
    try? Kernel.removeTree(directory)
  }

  func log(_ id: String) -> String {
    String(decoding: Kernel.read("\(directory)/instances/\(id)/log") ?? [], as: UTF8.self)
  }
  func has(_ path: String) -> Bool { Kernel.list("\(directory)/\(path)") != nil }
}

/// Ports for tests that run at once: each one is given to one test of this process, and lies below those that the
/// kernel uses for outgoing connections. Where in the range it begins is random, for test runs beside each other.
enum TestPorts {
  private static let all = 20_000..<30_000
  private static let next = Mutex(Int.random(in: all))

  /// So many ports in a row that nothing has.
  static func take(_ count: Int) throws -> ClosedRange<Int> {
    try next.withLock { next in
      for _ in 0..<1_000 {
        if next + count > all.upperBound { next = all.lowerBound }
        let range = next...(next + count - 1)
        next += count
        if range.allSatisfy({ BindProbe.conflict(port: $0) == nil }) { return range }
      }
      throw ProbeError("no \(count) ports in a row are free from \(all.lowerBound) to \(all.upperBound)")
    }
  }
}

func unusedPort() throws -> Int { try TestPorts.take(1).lowerBound }

func chromePool() -> PoolSpec { PoolSpec(name: "chrome", kind: .cdp, runtime: .process(ProcessSpec())) }

/// A pool that runs a shell command.
func shellPool(_ script: String, kind: PoolKind = .http, environment: [String: String] = [:]) -> PoolSpec {
  PoolSpec(
    name: "shell", kind: kind,
    runtime: .process(ProcessSpec(command: "sh", arguments: ["-c", script], environment: environment)), slots: 0,
    recycleAfterSessions: 0)
}

extension RuntimeBench {
  func launch(_ id: String, _ spec: PoolSpec, port: Int? = nil) async throws -> InstanceRecord {
    let port = try port ?? unusedPort()
    let launched = try await runtime.launch(LaunchPlan(id: id, spec: spec, port: port))
    var record = InstanceRecord(id: id, pool: spec.name, host: "127.0.0.1", port: port, state: .starting)
    launched.note(in: &record)
    return record
  }
}

/// Waits until something is true, at most a minute and a half.
func eventually(_ what: String, _ truth: () async throws -> Bool) async throws {
  // Beyond a pool's launch timeout: a Chrome that hangs at its start, as one in hundreds does, is replaced by then.
  let deadline = Deadline(milliseconds: 90_000)
  while try await !truth() {
    try #require(!deadline.hasPassed, "\(what) did not happen")
    try await Task.sleep(for: .milliseconds(10))
  }
}

@Suite struct RuntimeChromeTests {
  @Test func aChromeStartsAnswersAndLeavesNothing() async throws {
    let bench = try RuntimeBench("chrome")
    var record = try await bench.launch("chrome-1", chromePool())
    let browser = try #require(try await bench.runtime.awaitReady(record, spec: chromePool(), milliseconds: 90_000))
    record.browser = browser
    #expect(browser.count == 36)
    #expect(await bench.runtime.check(record, spec: chromePool(), depth: .cdp) == nil)

    // It answers CDP, and is alone in its session, its directory and its environment.
    let version = try CDPClient.call(
      "Browser.getVersion", host: "127.0.0.1", port: record.port, browser: browser,
      deadline: Deadline(milliseconds: 60_000))
    #expect(version?["product"]?.string?.contains("Chrome/") == true)
    let identity = try #require(record.identity)
    // The browser, its two zygotes and more as they come.
    try await eventually("Chrome has its processes") {
      ProcessTable.read().members(ofSessionLedBy: identity).count >= 4
    }
    #expect(ProcessTable.read().members(ofSessionLedBy: identity).allSatisfy { $0.group == identity.pid })
    let environment = ProcessTable.environment(of: identity.pid)
    #expect(environment["HOME"] == "\(bench.directory)/instances/chrome-1")
    #expect(environment["TMPDIR"].flatMap(Kernel.absolutePath) == "\(bench.directory)/instances/chrome-1/tmp")
    #expect(environment["SECRET"] == nil)
    #expect(environment["LANG"] == "C.UTF-8")
    try await eventually("it has a profile") { bench.has("instances/chrome-1/profile/Default") }

    let figures = try #require(await bench.runtime.figures(of: [record])["chrome-1"])
    #expect(figures.processes >= 3)
    #expect(figures.memoryBytes > 20 << 20)
    #expect(figures.cpuMilliseconds > 0)

    let left = await bench.runtime.stop(record, kind: .cdp, graceMilliseconds: 60_000, force: false)
    #expect(left == nil)
    // It was asked to close, so it said goodbye by itself.
    #expect(!bench.has("instances/chrome-1"))
    #expect(ProcessTable.read().members(ofSessionLedBy: identity).isEmpty)
    #expect(await bench.runtime.survey().running.isEmpty)
    #expect(BindProbe.conflict(host: "127.0.0.1", port: record.port, reusesAddress: true) == nil)
  }

  @Test func aPoliteStopLetsChromeExitByItself() async throws {
    let bench = try RuntimeBench("polite")
    var record = try await bench.launch("chrome-1", chromePool())
    record.browser = try await bench.runtime.awaitReady(record, spec: chromePool(), milliseconds: 90_000)
    let ended = record
    async let exit = bench.runtime.exit(of: ended)
    #expect(await bench.runtime.stop(record, kind: .cdp, graceMilliseconds: 60_000, force: false) == nil)
    #expect(await exit == InstanceExit(status: 0))
  }

  @Test func anotherBrowserAtThePortIsNotTakenForOurs() async throws {
    let bench = try RuntimeBench("guid")
    var record = try await bench.launch("chrome-1", chromePool())
    let browser = try await bench.runtime.awaitReady(record, spec: chromePool(), milliseconds: 90_000)
    record.browser = "00000000-0000-0000-0000-000000000000"
    let verdict = await bench.runtime.check(record, spec: chromePool(), depth: .http)
    #expect(verdict?.description.contains("another browser") == true)
    record.browser = browser
    #expect(await bench.runtime.check(record, spec: chromePool(), depth: .http) == nil)
    #expect(await bench.runtime.stop(record, kind: .cdp, graceMilliseconds: 5_000, force: true) == nil)
  }

  @Test func aTakenPortIsSaidAtOnce() async throws {
    let bench = try RuntimeBench("taken")
    let port = try unusedPort()
    let squatter = try await bench.launch(
      "squatter", shellPool("exec python3 -m http.server {port} --bind 127.0.0.1"), port: port)
    _ = try await bench.runtime.awaitReady(squatter, spec: shellPool(""), milliseconds: 90_000)
    #expect(BindProbe.conflict(port: port)?.contains("Address already in use") == true)
    let record = try await bench.launch("chrome-1", chromePool(), port: port)
    do {
      let browser = try await bench.runtime.awaitReady(record, spec: chromePool(), milliseconds: 90_000)
      Issue.record("ready although the port is taken: \(browser ?? "")")
    } catch {
      #expect(error.cause == .portTaken, "\(error)")
    }
    #expect(await bench.runtime.stop(record, kind: .cdp, graceMilliseconds: 1_000, force: true) == nil)
    #expect(await bench.runtime.stop(squatter, kind: .http, graceMilliseconds: 1_000, force: true) == nil)
  }

  @Test func aKilledChromeIsNoticedAndItsRestIsRemoved() async throws {
    let bench = try RuntimeBench("killed")
    var record = try await bench.launch("chrome-1", chromePool())
    record.browser = try await bench.runtime.awaitReady(record, spec: chromePool(), milliseconds: 90_000)
    let identity = try #require(record.identity)
    kill(pid_t(identity.pid), SIGKILL)
    #expect(await bench.runtime.exit(of: record) == InstanceExit(signal: 9))
    #expect(await bench.runtime.check(record, spec: chromePool(), depth: .http)?.description == "its process has ended")
    #expect(await bench.runtime.stop(record, kind: .cdp, graceMilliseconds: 1_000, force: false) == nil)
    #expect(ProcessTable.read().members(ofSessionLedBy: identity).isEmpty)
    #expect(!bench.has("instances/chrome-1"))
  }

  /// Every Chrome that is installed: Chromium makes sockets below TMPDIR, whose paths have a limit.
  @Test(arguments: ["chromium-headless-shell", "chromium"]) func aLongStateDirectoryServesToo(command: String)
    async throws
  {
    let bench = try RuntimeBench(String(repeating: "long", count: 30))
    var spec = chromePool()
    spec.runtime = .process(ProcessSpec(command: command))
    guard case .success = bench.runtime.program(of: spec) else { return }
    let record = try await bench.launch("chrome-1", spec)
    _ = try await bench.runtime.awaitReady(record, spec: spec, milliseconds: 90_000)
    let temporary = try #require(ProcessTable.environment(of: record.pid!)["TMPDIR"])
    #expect(temporary.hasPrefix("/tmp/berth-") && temporary.utf8.count <= 60)
    #expect(Kernel.absolutePath(temporary) == "\(bench.directory)/instances/chrome-1/tmp")
    #expect(await bench.runtime.stop(record, kind: .cdp, graceMilliseconds: 5_000, force: true) == nil)
    #expect(Kernel.absolutePath(temporary) == nil)
    #expect(Kernel.list("/tmp")?.contains(String(temporary.dropFirst(5))) == false)
  }
}

@Suite struct RuntimeProgramTests {
  @Test func anyProgramCanBeAPool() async throws {
    let bench = try RuntimeBench("http")
    let spec = shellPool(
      "echo id={id} dir={dir} more=$MORE; exec python3 -m http.server {port} --bind 127.0.0.1",
      environment: ["MORE": "{id}-{port}"])
    let record = try await bench.launch("web-1", spec)
    #expect(try await bench.runtime.awaitReady(record, spec: spec, milliseconds: 90_000) == nil)
    #expect(bench.log("web-1").contains("id=web-1 dir=\(bench.directory)/instances/web-1 more=web-1-\(record.port)"))
    #expect(await bench.runtime.check(record, spec: spec, depth: .http) == nil)
    #expect(await bench.runtime.stop(record, kind: .http, graceMilliseconds: 5_000, force: false) == nil)
  }

  @Test func aProgramThatFailsIsQuoted() async throws {
    let bench = try RuntimeBench("fails")
    let record = try await bench.launch("bad-1", shellPool("echo libfoo.so is missing >&2; exit 7"))
    do {
      _ = try await bench.runtime.awaitReady(record, spec: shellPool(""), milliseconds: 90_000)
      Issue.record("it was ready")
    } catch {
      #expect(error.description.contains("ended before it was ready; its log ends: libfoo.so is missing"), "\(error)")
    }
    #expect(await bench.runtime.exit(of: record) == InstanceExit(status: 7))
    #expect(await bench.runtime.stop(record, kind: .http, graceMilliseconds: 0, force: false) == nil)
  }

  @Test func aProgramThatNeverAnswersIsGivenUp() async throws {
    let bench = try RuntimeBench("mute")
    let record = try await bench.launch("mute-1", shellPool("exec sleep 1000"))
    do {
      _ = try await bench.runtime.awaitReady(record, spec: shellPool(""), milliseconds: 200)
      Issue.record("it was ready")
    } catch {
      #expect(
        error.description.contains("not ready within 200 ms: 127.0.0.1:\(record.port) cannot be reached"), "\(error)")
    }
    #expect(await bench.runtime.stop(record, kind: .http, graceMilliseconds: 1_000, force: false) == nil)
  }

  @Test func aMissingProgramIsNamed() async throws {
    let bench = try RuntimeBench("missing")
    let spec = PoolSpec(name: "p", kind: .http, runtime: .process(ProcessSpec(command: "no-such-program")))
    do {
      _ = try await bench.launch("p-1", spec)
      Issue.record("it was started")
    } catch {
      #expect("\(error)".contains("pool p: there is no program \"no-such-program\""), "\(error)")
    }
  }

  @Test func whatIgnoresSignalsOrLeavesItsSessionIsEndedToo() async throws {
    let bench = try RuntimeBench("stubborn")
    // One ignores SIGTERM, one is in a session of its own as Chrome's crash handlers are, one is its child.
    let record = try await bench.launch(
      "s-1", shellPool("trap '' TERM; setsid sh -c 'sleep 1001 & sleep 1002' & sleep 1003 & while :; do sleep 1; done"))
    try await eventually("all of them run") { sleepers(bench.directory).count >= 3 }
    async let exit = bench.runtime.exit(of: record)
    #expect(await bench.runtime.stop(record, kind: .http, graceMilliseconds: 200, force: false) == nil)
    #expect(sleepers(bench.directory).isEmpty)
    #expect(await exit == InstanceExit(signal: 9))
    #expect(!bench.has("instances/s-1"))
  }

  /// Living processes whose environment names the state directory.
  private func sleepers(_ directory: String) -> [ProcessEntry] {
    ProcessTable.read().entries.values.filter {
      !$0.hasEnded && ProcessTable.environment(of: $0.pid)["BERTH_STATE"] == directory
    }
  }
}

@Suite struct RuntimeAdoptionTests {
  /// Starts a program that is no child of this process, with the marks of an instance, as a control plane that died
  /// leaves one.
  private func orphan(_ bench: RuntimeBench, id: String) async throws -> InstanceRecord {
    let directory = "\(bench.directory)/instances/\(id)"
    try Kernel.makeDirectory(directory)
    let starter = try await bench.launch(
      "starter-\(id)",
      shellPool("BERTH_INSTANCE=\(id) setsid sh -c 'echo $$ > \(directory)/pid; exec sleep 1000' & exit 0"))
    _ = await bench.runtime.exit(of: starter)
    var pid: Int?
    try await eventually("the orphan has said its pid") {
      let text = String(decoding: Kernel.read("\(directory)/pid") ?? [], as: UTF8.self)
      pid = text.hasSuffix("\n") ? Int(text.dropLast()) : nil
      return pid != nil
    }
    let entry = try #require(ProcessTable.entry(of: pid!))
    #expect(entry.parent != Kernel.processID)
    return InstanceRecord(
      id: id, pool: "shell", host: "127.0.0.1", port: 51_000, state: .ready, pid: entry.pid, pidStart: entry.start)
  }

  @Test func anAdoptedProcessIsWatchedAndStopped() async throws {
    let bench = try RuntimeBench("adopt")
    let record = try await orphan(bench, id: "a-1")
    await bench.runtime.remember(record)
    let survey = await bench.runtime.survey()
    #expect(survey.running == ["a-1"])
    #expect(survey.records == [record])
    #expect(survey.directories.contains("a-1"))

    async let exit = bench.runtime.exit(of: record)
    #expect(await bench.runtime.stop(record, kind: .http, graceMilliseconds: 5_000, force: false) == nil)
    #expect(await exit == InstanceExit())
    #expect(!ProcessTable.isAlive(record.identity!))
  }

  @Test func anOrphanIsReapedByItsMarkAlone() async throws {
    let bench = try RuntimeBench("reap")
    let record = try await orphan(bench, id: "o-1")
    let other = try await orphan(bench, id: "o-2")
    #expect(await bench.runtime.reap(orphan: "o-1") == nil)
    #expect(!ProcessTable.isAlive(record.identity!))
    #expect(ProcessTable.isAlive(other.identity!))
    #expect(!bench.has("instances/o-1"))
    #expect(await bench.runtime.reap(orphan: "o-2") == nil)
    #expect(await bench.runtime.survey().running.isEmpty)
  }

  @Test func aReusedPidIsNotOurs() async throws {
    let bench = try RuntimeBench("reused")
    var record = try await orphan(bench, id: "r-1")
    let real = record
    record.pidStart = record.pidStart! - 1
    #expect(await bench.runtime.exit(of: record) == InstanceExit())
    #expect(
      await bench.runtime.check(record, spec: shellPool(""), depth: .http)
        == HealthProblem(.process, "its process has ended"))
    #expect(await bench.runtime.figures(of: [record]).isEmpty)
    // Another state directory's instance of the same name is none of its business either.
    let stranger = try RuntimeBench("stranger")
    #expect(await stranger.runtime.stop(record, kind: .http, graceMilliseconds: 100, force: true) == nil)
    #expect(ProcessTable.isAlive(real.identity!))
    #expect(await bench.runtime.reap(orphan: "r-1") == nil)
  }
}
