// Ends instances: Browser.close, then SIGTERM, then SIGKILL, each to all that belongs to the instance and each followed
// by a look whether anything is left; only then the directory goes, because a Chrome that still runs writes it again.
package import Routing

extension ProcessRuntime {
  /// How long processes may take to vanish after SIGKILL; only one that hangs in the kernel takes longer.
  private static let killMilliseconds = 10_000

  package func stop(
    _ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool
  ) async -> String? {
    let identity = record.identity
    if !force, isAlive(record) {
      if kind == .cdp, let browser = record.browser, await close(record, browser: browser, within: graceMilliseconds) {
        _ = await gone(record.id, identity, within: graceMilliseconds)
      }
      if await signal(Kernel.terminate, record.id, identity) {
        _ = await gone(record.id, identity, within: graceMilliseconds)
      }
    }
    return await end(record.id, identity)
  }

  package func reap(orphan id: String) async -> String? { await end(id, nil) }

  /// The hard end: SIGKILL until nothing is left, then the directory. Returns what would not go away.
  private func end(_ id: String, _ identity: ProcessIdentity?) async -> String? {
    let deadline = Deadline(milliseconds: Self.killMilliseconds)
    while await signal(Kernel.killNow, id, identity) {
      if await gone(id, identity, within: 100) { break }
      if deadline.hasPassed {
        let left = await pool.run { self.members(id, identity).map { String($0.pid) }.sorted() }
        return "processes \(left.joined(separator: ", ")) do not end"
      }
    }
    if let identity {
      // Until the watch has reaped it, the process table still has a zombie of ours.
      _ = await exits.exit(of: identity)
      exits.forget(identity)
    }
    return await pool.run { () -> String? in
      do throws(KernelError) {
        try self.removeDirectory(of: id)
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
  private func members(_ id: String, _ identity: ProcessIdentity?) -> [ProcessEntry] {
    let table = ProcessTable.read()
    var members: [Int: ProcessEntry] = [:]
    func add(_ entries: [ProcessEntry]) { for entry in entries { members[entry.pid] = entry } }
    if let identity { add(table.members(ofSessionLedBy: identity)) }
    for entry in marked(in: table)[id] ?? [] {
      add([entry])
      // Its session is the instance's or, for one that left, its own; our own session is neither.
      if let leader = table.entries[entry.session] {
        if leader.pid == entry.pid || marked(leader, as: id) {
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
  private func signal(_ number: Int32, _ id: String, _ identity: ProcessIdentity?) async -> Bool {
    await pool.run {
      let members = self.members(id, identity)
      // The group at once first, so that no member sees another one vanish and starts a new one.
      if let identity, members.contains(where: { $0.group == identity.pid && $0.session == identity.pid }) {
        Kernel.signal(number, group: identity.pid)
      }
      for member in members where member.group != identity?.pid {
        guard let pidfd = Kernel.openProcess(member.pid) else { continue }
        if ProcessTable.entry(of: member.pid)?.start == member.start { Kernel.signal(number, through: pidfd) }
        Kernel.close(pidfd)
      }
      return !members.isEmpty
    }
  }

  /// Waits until no member lives; false when some do after that time.
  private func gone(_ id: String, _ identity: ProcessIdentity?, within milliseconds: Int) async -> Bool {
    let deadline = Deadline(milliseconds: milliseconds)
    var pause = 2
    while true {
      if await pool.run({ self.members(id, identity).isEmpty }) { return true }
      if deadline.hasPassed { return false }
      // Not cancelled with its caller: what was begun to be ended must be ended.
      let wait = min(pause, max(1, deadline.millisecondsLeft))
      await Task { try? await Task.sleep(for: .milliseconds(wait)) }.value
      pause = min(pause * 2, 50)
    }
  }
}
