// What /proc says: one pass over all processes, and from it the members and figures of an instance. No cgroup is
// needed. Fields are those of proc(5).

/// One process as /proc/<pid>/stat shows it.
package struct ProcessEntry: Sendable, Equatable {
  package var pid: Int
  package var state: Character
  package var parent: Int
  package var group: Int
  package var session: Int
  /// Processor time of the process in clock ticks, user and system.
  package var ticks: Int
  /// When it started, clock ticks after boot. With the pid it names one process for as long as the host is up.
  package var start: Int

  /// A zombie has ended and only waits for its parent to ask; no signal reaches it and it holds nothing.
  package var hasEnded: Bool { state == "Z" || state == "X" }

  /// Reads a line of /proc/<pid>/stat. The name in it may contain anything, so fields count from the last `)`.
  package init?(stat line: [UInt8]) {
    guard let close = line.lastIndex(of: UInt8(ascii: ")")), let open = line.firstIndex(of: UInt8(ascii: " ")),
      let pid = Int(String(decoding: line[..<open], as: UTF8.self))
    else { return nil }
    let fields = line[(close + 1)...].split(whereSeparator: { $0 == 0x20 || $0 == 0x0A })
    // fields[0] is field 3, the state.
    func number(_ field: Int) -> Int? {
      field - 3 < fields.count ? Int(String(decoding: fields[field - 3], as: UTF8.self)) : nil
    }
    guard let state = fields.first?.first, let parent = number(4), let group = number(5), let session = number(6),
      let user = number(14), let system = number(15), let start = number(22)
    else { return nil }
    self.pid = pid
    self.state = Character(Unicode.Scalar(state))
    self.parent = parent
    self.group = group
    self.session = session
    ticks = user + system
    self.start = start
  }
}

/// What names one process beyond the reuse of its pid.
package struct ProcessIdentity: Sendable, Equatable, Hashable {
  package var pid: Int
  package var start: Int
  package init(pid: Int, start: Int) {
    self.pid = pid
    self.start = start
  }
}

/// The processes of this host at one moment.
package struct ProcessTable: Sendable {
  package let entries: [Int: ProcessEntry]

  package init(entries: [ProcessEntry]) {
    self.entries = Dictionary(entries.map { ($0.pid, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// Reads /proc; processes that end meanwhile are left out.
  package static func read() -> ProcessTable {
    let pids = (Kernel.list("/proc") ?? []).compactMap { Int($0) }
    return ProcessTable(entries: pids.compactMap(entry(of:)))
  }

  package static func entry(of pid: Int) -> ProcessEntry? {
    Kernel.read("/proc/\(pid)/stat", limit: 4_096).flatMap { ProcessEntry(stat: $0) }
  }

  /// Whether this very process still runs. One that cannot be looked at, because this process has no descriptor left,
  /// counts as alive while its pid is there: our own trouble ends nobody's browser.
  package static func isAlive(_ identity: ProcessIdentity) -> Bool {
    guard let entry = entry(of: identity.pid) else { return Kernel.exists("/proc/\(identity.pid)/stat") }
    return entry.start == identity.start && !entry.hasEnded
  }

  /// The living processes of a session whose leader this was. A kernel does not give a pid away while a session or
  /// group still bears it; so when the leader's pid is another process by now, nothing of the session is left.
  package func members(ofSessionLedBy leader: ProcessIdentity) -> [ProcessEntry] {
    if let entry = entries[leader.pid], entry.start != leader.start { return [] }
    return entries.values.filter { $0.session == leader.pid && $0.start >= leader.start && !$0.hasEnded }
  }

  /// A variable of a process's environment as it was at its start; nil when it has none or may not be read.
  package static func environment(of pid: Int) -> [String: String] {
    guard let bytes = Kernel.read("/proc/\(pid)/environ", limit: 1 << 18) else { return [:] }
    var variables: [String: String] = [:]
    for entry in bytes.split(separator: 0) {
      guard let equals = entry.firstIndex(of: UInt8(ascii: "=")) else { continue }
      variables[String(decoding: entry[..<equals], as: UTF8.self)] = String(
        decoding: entry[(equals + 1)...], as: UTF8.self)
    }
    return variables
  }
}

/// What the processes of one instance use together.
package struct ProcessFigures: Sendable, Equatable {
  /// Processor time since the start, milliseconds.
  package var cpuMilliseconds: Int
  /// Memory with shared pages divided among those who share them (PSS), bytes.
  package var memoryBytes: Int
  package var processes: Int
  /// What they may use at most together, where that is less than their host has.
  package var memoryLimitBytes: Int?
  /// Thousandths of a processor.
  package var milliCPULimit: Int?

  package init(cpuMilliseconds: Int, memoryBytes: Int, processes: Int) {
    self.cpuMilliseconds = cpuMilliseconds
    self.memoryBytes = memoryBytes
    self.processes = processes
  }

  /// Clock ticks a second, as /proc counts (it is 100 on every Linux that Swift runs on).
  private static let ticksPerSecond = 100

  package static func measure(_ members: [ProcessEntry]) -> ProcessFigures {
    var figures = ProcessFigures(cpuMilliseconds: 0, memoryBytes: 0, processes: members.count)
    for member in members {
      figures.cpuMilliseconds += member.ticks * 1_000 / ticksPerSecond
      if let text = Kernel.read("/proc/\(member.pid)/smaps_rollup", limit: 8_192) {
        figures.memoryBytes += proportionalKilobytes(inRollup: text) * 1_024
      }
    }
    return figures
  }

  /// The number of the line `Pss:  123 kB`; 0 when there is none.
  package static func proportionalKilobytes(inRollup text: [UInt8]) -> Int {
    for line in text.split(separator: UInt8(ascii: "\n")) where line.starts(with: "Pss:".utf8) {
      let digits = line.filter { $0 >= 0x30 && $0 <= 0x39 }
      return Int(String(decoding: digits, as: UTF8.self)) ?? 0
    }
    return 0
  }
}
