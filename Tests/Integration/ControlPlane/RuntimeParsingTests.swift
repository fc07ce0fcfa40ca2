// What the runtime reads from /proc, logs and sockets, byte by byte.
import Routing
import Runtimes
import Testing

@Suite struct RuntimeParsingTests {
  @Test func aProcessNameMayContainAnything() throws {
    let line =
      "4711 (a) b (c) 1 2) S 1 4700 4699 0 -1 4194304 1 2 3 4 50 7 0 0 20 0 1 0 123456 8 9 18446744073709551615\n"
    let entry = try #require(ProcessEntry(stat: Array(line.utf8)))
    #expect(
      entry.pid == 4711 && entry.state == "S" && entry.parent == 1 && entry.group == 4700 && entry.session == 4699)
    #expect(entry.ticks == 57 && entry.start == 123_456)
    #expect(ProcessEntry(stat: Array("4711 (sh) S 1 2 3".utf8)) == nil)
    #expect(ProcessEntry(stat: []) == nil)
  }

  @Test func thisProcessIsInTheTable() throws {
    let own = try #require(ProcessTable.read().entries[Kernel.processID])
    #expect(ProcessTable.isAlive(ProcessIdentity(pid: own.pid, start: own.start)))
    #expect(!ProcessTable.isAlive(ProcessIdentity(pid: own.pid, start: own.start + 1)))
    #expect(ProcessFigures.measure([own]).memoryBytes > 1 << 20)
  }

  @Test func aSessionWhoseLeadersPidIsReusedIsEmpty() throws {
    func entry(_ pid: Int, session: Int, start: Int, state: String = "S") -> ProcessEntry {
      ProcessEntry(
        stat: Array(
          "\(pid) (x) \(state) 1 \(session) \(session) 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 \(start) 0".utf8))!
    }
    let table = ProcessTable(entries: [
      entry(10, session: 10, start: 100), entry(11, session: 10, start: 101), entry(12, session: 10, start: 99),
      entry(13, session: 10, start: 102, state: "Z"), entry(14, session: 14, start: 103),
    ])
    #expect(table.members(ofSessionLedBy: ProcessIdentity(pid: 10, start: 100)).map(\.pid).sorted() == [10, 11])
    #expect(table.members(ofSessionLedBy: ProcessIdentity(pid: 10, start: 98)).isEmpty)
    let leaderless = ProcessTable(entries: [entry(11, session: 10, start: 101)])
    #expect(leaderless.members(ofSessionLedBy: ProcessIdentity(pid: 10, start: 100)).map(\.pid) == [11])
  }

  @Test func memoryIsTheLineOfItsName() {
    let rollup = "5500 ---p [rollup]\nRss:  900 kB\nPss:     417 kB\nPss_Anon:  1 kB\n"
    #expect(ProcessFigures.proportionalKilobytes(inRollup: Array(rollup.utf8)) == 417)
    #expect(ProcessFigures.proportionalKilobytes(inRollup: []) == 0)
  }

  @Test func theListeningLineIsFoundAmongOthers() {
    func said(_ log: String) -> Chrome.Announcement { Chrome.announcement(in: Array(log.utf8)) }
    let guid = "8c0048bf-46cb-4599-adbf-e3fe01057fbf"
    #expect(
      said("[ERROR] dbus\n\nDevTools listening on ws://127.0.0.1:51120/devtools/browser/\(guid)\nmore\n")
        == .listening(port: 51_120, browser: guid))
    #expect(said("") == .none)
    #expect(said("DevTools listening on ws://127.0.0.1:51120/devtools/bro") == .none)
    #expect(said("DevTools listening on ws://127.0.0.1:51120/devtools/browser/8c0048bf") == .none)
    #expect(said("DevTools listening on ws://[::1]:51120/devtools/browser/\(guid)\n") == .portTaken)
    #expect(said("[1:1:ERROR:x.cc(9)] Cannot start http server for devtools.\n") == .portTaken)
  }

  @Test func aPortIsTakenOnAnyAddress() async throws {
    let bench = try RuntimeBench("bind")
    for address in ["0.0.0.0", "127.0.0.1", "::1", "::"] {
      let port = try unusedPort()
      let squatter = try await bench.launch(
        "squatter", shellPool("exec python3 -m http.server {port} --bind \(address)"), port: port)
      try await eventually("\(address):\(port) is taken") { BindProbe.conflict(port: port) != nil }
      #expect(await bench.runtime.stop(squatter, kind: .http, graceMilliseconds: 1_000, force: true) == nil)
    }
  }
}
