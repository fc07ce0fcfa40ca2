// What the coordinator says to Redis for each purpose, what an answer means for who asked, and what holds without one.
import Observability
import ProxyMachine
import Routing
import State

// MARK: Commands

extension CommandDesk {
  /// Asks for a slot, first or again: with the same session the answer to a lost question is found again.
  func acquire(_ waiter: Waiter) -> Operation {
    guard let pool = core.table?.pools[waiter.pool] else {
      // The pool is gone: Redis will say so.
      return Operation(
        .acquire(waiter),
        leases.acquire(
          SessionBirth.record(id: waiter.session, pool: PoolRecord(name: waiter.pool, kind: .cdp, slots: 1), now: now),
          holder: nil, reserveMilliseconds: nil, queue: false, now: now))
    }
    return Operation(
      .acquire(waiter),
      leases.acquire(
        SessionBirth.record(id: waiter.session, pool: pool, now: now), holder: waiter.reserve ? nil : core.replica,
        reserveMilliseconds: waiter.reserve ? pool.reservationMilliseconds : nil,
        queue: waiter.queues,
        countsAsUse: waiter.countsAsUse, now: now))
  }

  func claim(_ claim: Claim) -> Operation? {
    if let instance = core.table?.instance(browser: claim.browser) { return self.claim(claim, on: instance) }
    guard monotonic - lookup.at >= Self.unknownMilliseconds else { return claimFound(claim) }
    return Operation(.findInstance(claim), registry.instances()) { .instances($0) }
  }

  /// After Redis listed its instances, now or within the last second.
  private func claimFound(_ claim: Claim) -> Operation? {
    guard let instance = lookup.instances.first(where: { $0.browser == claim.browser }) else {
      refuse(claim.key, .unknown)
      return nil
    }
    return self.claim(claim, on: instance)
  }

  private func claim(_ claim: Claim, on instance: InstanceRecord) -> Operation? {
    guard let command = claiming(claim, instance) else {
      refuse(claim.key, .unknown)
      return nil
    }
    return Operation(.claim(claim, instance: instance), command)
  }

  private func claiming(_ claim: Claim, _ instance: InstanceRecord) -> Command<Grant>? {
    guard let pool = core.table?.pools[instance.pool], pool.slots > 0 else { return nil }
    let template = SessionBirth.record(id: claim.session, pool: pool, now: now)
    return leases.claim(instance: instance.id, session: template, holder: core.replica, now: now)
  }

  func settleClaim(_ owed: (claim: Claim, instance: InstanceRecord)) -> Operation {
    guard let command = claiming(owed.claim, owed.instance) else { return detach(owed.claim.session) }
    return Operation(.settleClaim(owed.claim, instance: owed.instance), command)
  }

  func attach(_ key: TicketKey, _ session: String) -> Operation {
    Operation(.attach(key, session: session), leases.attach(session: session, holder: core.replica, now: now))
  }

  func reattach(_ session: String, losses: Int?) -> Operation {
    Operation(
      .reattach(session: session, losses: losses), leases.attach(session: session, holder: core.replica, now: now))
  }

  func restore(_ record: SessionRecord) -> Operation {
    Operation(
      .restore(record), leases.restore(record, holder: holdings.isHeld(record.id) ? core.replica : nil, now: now))
  }

  func detach(_ session: String) -> Operation {
    Operation(.detach(session: session), leases.detach(session: session, holder: core.replica, now: now))
  }

  func end(_ session: String) -> Operation {
    Operation(.end(session: session), leases.end(session: session, reason: "client", now: now)) { .flag($0) }
  }

  func cancelWaiting(_ session: String, _ pool: String) -> Operation {
    Operation(.cancelWaiting(session: session, pool: pool), leases.cancelWaiting(session: session, pool: pool))
  }

  func refuse(_ key: TicketKey, _ refusal: SlotRefusal) { core.deliver(.refused(refusal), key) }

  private func hold(_ record: SessionRecord, _ key: TicketKey) {
    holdings.grant(record, to: key)
    core.deliver(.granted(record), key)
  }
}

// MARK: Answers

extension CommandDesk {
  /// Acts on an answer; returns what follows from it.
  func answered(_ operation: Operation, _ outcome: Operation.Outcome) -> [Operation] {
    switch (operation.purpose, outcome) {
    case (.acquire(let waiter), .grant(let grant)): return acquired(waiter, grant)
    case (.claim(let claim, let instance), .grant(let grant)): claimed(claim, instance, grant)
    case (.findInstance(let claim), .instances(let instances)):
      lookup = (monotonic, instances)
      return claimFound(claim).map { [$0] } ?? []
    case (.attach(let key, let session), .grant(let grant)): attached(key, session, grant)
    case (.look(let key, let session), .view(let view)):
      if let view {
        core.deliver(.granted(view.record), key)
      } else {
        noteUnknown(session)
        refuse(key, core.isTrusted ? .unknown : .unavailable)
      }
    case (.reserved(let key), .view(let view)):
      if let view, view.state == .reserved { core.deliver(.granted(view.record), key) } else { refuse(key, .unknown) }
    case (.target(let key, _), .text(let session)):
      guard let session else {
        refuse(key, core.isTrusted ? .unknown : .unavailable)
        break
      }
      return [attach(key, session)]
    case (.giveBack(let session), .view(let view)):
      // Reserved for a client that has gone; unless somebody took it over meanwhile.
      if let view, view.state == .reserved { return [end(session)] }
    case (.settleClaim, .grant(.granted(let record))):
      if !holdings.isHeld(record.id) { return [detach(record.id)] }
    case (.reattach(let session, let losses), .grant(.unknown)):
      // With the whole history known, Redis has ended it. Otherwise the feed will find out what happened.
      if let losses, losses == core.losses { return ended(session) }
    case (.restore(let record), .grant(let grant)): return restored(record, grant)
    case (.reasons(let sessions), .events(let events)):
      for session in sessions {
        let event = events.first { $0.type == "session.ended" && $0.id == session }
        core.end(session, reason: event?.reason ?? Self.noReason)
      }
    case (.beat, .flag(let known)): if !known { wasUnknown() }
    case (.flushTraffic, _): traffic.ledger.confirmed()
    case (.borrow(let pool, let worker), .block(let block)): lend(block, of: pool, to: worker)
    case (.findJob(let question), .text(let instance)): found(question, instance)
    case (.countReplicas, .count(let count)): tell(replicas: count)
    case (.readLoads, .loads(let loads)): tell(loads: loads)
    case (.report(let told), .count(let dropped)):
      core.count {
        $0.faultReports += told
        $0.faultReportsDropped += dropped
      }
    default: break
    }
    return []
  }

  private func acquired(_ waiter: Waiter, _ grant: Grant) -> [Operation] {
    if case .queued = grant {
      if !isWaiting(waiter.key) { enqueue(waiter) }
      return []
    }
    if isWaiting(waiter.key) { leave(waiter.key, waiter.pool) }
    switch grant {
    case .granted(let record):
      if waiter.reserve {
        reserved[waiter.key] = (record.id, now)
        core.deliver(.granted(record), waiter.key)
      } else {
        hold(record, waiter.key)
      }
    case .queueFull: refuse(waiter.key, .queueFull)
    // Waiting was not asked for because the pool allows none.
    case .busy: refuse(waiter.key, .timedOut)
    // A pool of the table that Redis does not know: it lost its data and is being filled again.
    case .unknown:
      refuse(waiter.key, core.table?.pools[waiter.pool].map { $0.slots > 0 } == true ? .unavailable : .unknown)
    case .queued: break
    }
    return []
  }

  private func claimed(_ claim: Claim, _ instance: InstanceRecord, _ grant: Grant) {
    switch grant {
    case .granted(let record): hold(record, claim.key)
    case .busy: refuse(claim.key, .busy)
    case .unknown, .queued, .queueFull:
      if !core.isTrusted { claimedWithoutRedis(claim, instance) } else { refuse(claim.key, .unknown) }
    }
  }

  private func attached(_ key: TicketKey, _ session: String, _ grant: Grant) {
    switch grant {
    case .granted(let record): hold(record, key)
    case .busy: refuse(key, .busy)
    case .unknown, .queued, .queueFull:
      if !core.isTrusted, attachedWithoutRedis(key, session) { return }
      noteUnknown(session)
      refuse(key, core.isTrusted ? .unknown : .unavailable)
    }
  }

  private func restored(_ record: SessionRecord, _ grant: Grant) -> [Operation] {
    switch grant {
    case .granted: return []
    case .unknown:
      // Its hard limit is over, or somebody ended it since Redis is back.
      core.withView { $0.sessions[record.id] = nil }
      if holdings.end(record.id) {
        core.end(record.id, reason: record.expiresAt <= now ? "hard limit" : Self.noReason)
      }
    case .busy, .queued, .queueFull:
      guard holdings.isHeld(record.id) else {
        core.withView { $0.sessions[record.id] = nil }
        break
      }
      // Only an explicit end closes live sockets; but two clients share a browser now, and somebody should know.
      core.log.error(
        "a live session could not be put back: others have its instance",
        ["session": .string(record.id), "instance": .string(record.instance)])
    }
    return []
  }
}

// MARK: Without Redis

extension CommandDesk {
  /// No answer came: either nothing was sent, or the answer is lost and Redis may have done it (`mayHaveRun`).
  func failed(_ operation: Operation, mayHaveRun: Bool) {
    switch operation.purpose {
    case .acquire(let waiter):
      // Who waits goes on waiting: Redis may be back before the deadline.
      if isWaiting(waiter.key) { return doubt(waiter.key) }
      refuse(waiter.key, .unavailable)
      guard mayHaveRun else { return }
      owed.ends.insert(waiter.session)
      owed.cancels[waiter.session] = waiter.pool
    case .claim(let claim, let instance):
      if claimedWithoutRedis(claim, instance) || !mayHaveRun { return }
      owed.claims.append((claim, instance))
    case .findInstance(let claim): refuse(claim.key, .unavailable)
    case .attach(let key, let session):
      if attachedWithoutRedis(key, session) { return }
      refuse(key, .unavailable)
      if mayHaveRun && !holdings.isHeld(session) { owed.detaches.insert(session) }
    case .look(let key, _), .reserved(let key): refuse(key, .unavailable)
    case .target(let key, _): refuse(key, .unavailable)
    case .detach(let session): owed.detaches.insert(session)
    case .end(let session): owed.ends.insert(session)
    case .cancelWaiting(let session, let pool): owed.cancels[session] = pool
    // The reservation runs out by itself.
    case .giveBack: break
    case .settleClaim(let claim, let instance): owed.claims.append((claim, instance))
    case .reattach, .restore: owed.reattach = true
    case .reasons(let sessions): for session in sessions { core.end(session, reason: Self.noReason) }
    // This replica knows it all the same.
    case .remember: break
    case .beat(let sent): touched.formUnion(sent)
    case .rememberJob(let job, let instance): owe(job, instance: instance)
    case .findJob(let question): answer(question, .unavailable)
    // Workers go on with what they have.
    case .borrow, .countReplicas, .readLoads: break
    // Old news by the time that Redis is back.
    case .report(let told): core.count { $0.faultReportsDropped += told }
    // The ledger keeps it for the next time.
    case .flushTraffic: break
    }
  }

  /// A browser whose only session this replica has sockets of already: one more socket of the same client needs no new
  /// slot. Anything else could be a second client in one Chrome. True when granted; otherwise it is refused.
  @discardableResult
  private func claimedWithoutRedis(_ claim: Claim, _ instance: InstanceRecord) -> Bool {
    guard core.table?.pools[instance.pool]?.slots == 1, let record = holdings.session(on: instance.id) else {
      refuse(claim.key, .unavailable)
      return false
    }
    hold(record, claim.key)
    owed.reattach = true
    return true
  }

  /// A session that is known here goes on by its last record. True when granted.
  private func attachedWithoutRedis(_ key: TicketKey, _ session: String) -> Bool {
    guard let record = core.session(session) ?? holdings.record(session), record.expiresAt > now else { return false }
    hold(record, key)
    // Redis hears of it when it is back.
    owed.reattach = true
    return true
  }
}
