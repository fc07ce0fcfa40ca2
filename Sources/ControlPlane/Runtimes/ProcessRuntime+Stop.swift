// Ends instances: Browser.close, then SIGTERM, then SIGKILL, each to all that belongs to the instance and each followed
// by a look whether anything is left; only then the directory goes, because a Chrome that still runs writes it again.
package import Routing

extension ProcessRuntime {
  /// How long processes may take to vanish after SIGKILL; only one that hangs in the kernel takes longer.
  private static let killMilliseconds = 10_000

  package func stop(
    _ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool
  ) async -> String? {
    let whose = Whose(id: record.id, identity: record.identity, generation: record.generation)
    if !force, isAlive(record) {
      if kind == .cdp, let browser = record.browser, await close(record, browser: browser, within: graceMilliseconds) {
        _ = await gone(whose, within: graceMilliseconds)
      }
      if await signal(Kernel.terminate, whose) { _ = await gone(whose, within: graceMilliseconds) }
    }
    return await end(whose)
  }

  package func reap(orphan id: String) async -> String? {
    await end(Whose(id: id, identity: nil, generation: nil))
  }

  /// What is to be ended. With a generation, nothing of a later one is touched: a control plane that stood still in the
  /// middle of a stop may go on when its successor has restarted the instance under its name.
  private struct Whose: Sendable {
    let id: String
    let identity: ProcessIdentity?
    let generation: Int?
  }

  /// The hard end: SIGKILL until nothing is left, then the directory. Returns what would not go away.
  private func end(_ whose: Whose) async -> String? {
    let deadline = Deadline(milliseconds: Self.killMilliseconds)
    while await signal(Kernel.killNow, whose) {
      if await gone(whose, within: 100) { break }
      if deadline.hasPassed {
        let left = await pool.run { self.members(whose).map { String($0.pid) }.sorted() }
        return "processes \(left.joined(separator: ", ")) do not end"
      }
    }
    if let identity = whose.identity {
      // Until the watch has reaped it, the process table still has a zombie of ours.
      _ = await exits.exit(of: identity)
      exits.forget(identity)
    }
    return await pool.run { () -> String? in
      do throws(KernelError) {
        if whose.generation == nil || self.marked(in: ProcessTable.read())[whose.id] == nil {
          try self.removeDirectory(of: whose.id)
        }
        return nil
      } catch {
        return error.description
      }
    }
  }

  /// Asks the browser to close; false when it could not be asked.
  private func close(_ record: InstanceRecord, browser: String, within milliseconds: Int) async -> Bool {
    await pool.run {
      let deadline = Deadline(milliseconds: milliseconds)
      do {
        _ = try CDPClient.call(
          "Browser.close", host: record.host, port: record.port, browser: browser, deadline: deadline)
        return true
      } catch {
        return false
      }
    }
  }

  /// All living processes of an instance: its session, and those that left the session but bear its mark (Chrome's
  /// crash handlers do; its zygotes stay in the session but overwrite their environment, so neither alone is enough).
  private func members(_ whose: Whose) -> [ProcessEntry] {
    let table = ProcessTable.read()
    var members: [Int: ProcessEntry] = [:]
    func add(_ entries: [ProcessEntry]) { for entry in entries { members[entry.pid] = entry } }
    if let identity = whose.identity { add(table.members(ofSessionLedBy: identity)) }
    for entry in marked(in: table, generation: whose.generation)[whose.id] ?? [] {
      add([entry])
      // Its session is the instance's or, for one that left, its own; our own session is neither.
      if let leader = table.entries[entry.session] {
        if leader.pid == entry.pid || marked(leader, as: whose.id) {
          add(table.members(ofSessionLedBy: ProcessIdentity(pid: leader.pid, start: leader.start)))
        }
      } else {
        add(table.entries.values.filter { $0.session == entry.session && !$0.hasEnded })
      }
    }
    return Array(members.values)
  }

  private func marked(_ entry: ProcessEntry, as id: String) -> Bool {
    let variables = ProcessTable.environment(of: entry.pid)
    return variables[Self.stateVariable] == state && variables[Self.instanceVariable] == id
  }

  /// Signals all members; false when there is none.
  private func signal(_ number: Int32, _ whose: Whose) async -> Bool {
    await pool.run {
      let members = self.members(whose)
      // The group at once first, so that no member sees another one vanish and starts a new one.
      if let identity = whose.identity,
        members.contains(where: { $0.group == identity.pid && $0.session == identity.pid })
      {
        Kernel.signal(number, group: identity.pid)
      }
      for member in members where member.group != whose.identity?.pid {
        guard let pidfd = Kernel.openProcess(member.pid) else { continue }
        if ProcessTable.entry(of: member.pid)?.start == member.start { Kernel.signal(number, through: pidfd) }
        Kernel.close(pidfd)
      }
      return !members.isEmpty
    }
  }

  /// Waits until no member lives; false when some do after that time.
  private func gone(_ whose: Whose, within milliseconds: Int) async -> Bool {
    let deadline = Deadline(milliseconds: milliseconds)
    var pause = 2
    while true {
      if await pool.run({ self.members(whose).isEmpty }) { return true }
      if deadline.hasPassed { return false }
      // Not cancelled with its caller: what was begun to be ended must be ended.
      let wait = min(pause, max(1, deadline.millisecondsLeft))
      await Task { try? await Task.sleep(for: .milliseconds(wait)) }.value
      pause = min(pause * 2, 50)
    }
  }
}
