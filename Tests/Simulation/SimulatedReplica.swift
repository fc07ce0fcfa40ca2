// Data-plane replicas and their clients: they ask for slots, wait in the queue, hold sockets, go away politely or not, and
// die with their replica.
import Domain
import Redis
import Routing
import State

@Simulated final class SimulatedReplica {
  let process: Process
  private unowned let scene: Scene
  /// Sessions whose sockets it has.
  private(set) var sockets: Set<String> = []
  private var touched: Set<String> = []

  private var leases: Leases { Leases(keys: scene.wire.keys) }
  private var name: String { process.name }

  init(_ name: String, scene: Scene) {
    process = Process(name)
    self.scene = scene
  }

  func start() {
    scene.spawn { try await self.beat() }
    if scene.pools.contains(where: { $0.slots == 0 }) { scene.spawn { try await self.carry() } }
  }

  private func run<R: Sendable>(_ command: Command<R>) async throws -> R {
    try await scene.wire.run(command, by: process)
  }

  private func beat() async throws {
    let replicas = Replicas(keys: scene.wire.keys)
    while true {
      do {
        let moved = touched.sorted()
        touched = []
        let isKnown = try await run(replicas.beat(id: name, figures: [:], touched: moved, now: scene.now))
        hasBeaten = true
        // The leader took it for dead: what it still has is put back.
        if !isKnown {
          for session in sockets.sorted() {
            if case .unknown = try await run(leases.attach(session: session, holder: name, now: scene.now)) {
              sockets.remove(session)
            }
          }
        }
      } catch is Away {}
      try await scene.sleep(1_000, process)
    }
  }

  // MARK: Requests without slots

  /// Redis knows it.
  private var hasBeaten = false
  /// Requests that it has under way, by instance and generation.
  private(set) var underway: [String: Int] = [:]

  func underway(_ record: InstanceRecord) -> Int { underway[Self.name(record)] ?? 0 }

  private static func name(_ record: InstanceRecord) -> String { "\(record.id)#\(record.generation)" }

  /// Routes by the records as it knows them, and flushes what came of it, as CommandDesk+Traffic does.
  private func carry() async throws {
    while !hasBeaten { try await scene.sleep(50, process) }
    let pools = Set(scene.pools.filter { $0.slots == 0 }.map(\.name))
    let traffic = Traffic(keys: scene.wire.keys)
    let registry = Registry(keys: scene.wire.keys)
    var table: [InstanceRecord] = []
    var counted: [String: Int] = [:]
    while true {
      do {
        table = try await run(registry.instances()).filter { pools.contains($0.pool) }
      } catch is Away {}
      let known = Set(table.map(Self.name))
      underway = underway.filter { known.contains($0.key) }
      counted = counted.filter { known.contains($0.key) }
      for record in table {
        let name = Self.name(record)
        underway[name] = (underway[name] ?? 0) - scene.draw(0...(underway[name] ?? 0))
        guard record.state == .ready, scene.isBusy else { continue }
        let new = scene.draw(0...5)
        underway[name]! += new
        counted[name, default: 0] += new
      }
      let entries = table.map { record in
        TrafficEntry(
          instance: record.id, generation: record.generation, state: record.state,
          requests: counted[Self.name(record)] ?? 0, active: underway(record))
      }
      do {
        try await run(traffic.flush(replica: name, at: scene.now, entries: entries))
        counted = [:]
      } catch is Away {}
      try await scene.sleep(scene.draw(400...900), process)
    }
  }

  /// A client comes to this replica and stays for a while.
  func serve(pool: PoolSpecOfClient, origin: SessionRecord.Origin) async throws {
    let id = scene.name("s")
    let born = scene.now
    let record = SessionRecord(
      id: id, pool: pool.name, origin: origin, createdAt: born, expiresAt: born + pool.hard,
      idleLimitMilliseconds: pool.idle, graceMilliseconds: pool.grace)
    guard let granted = try await wait(for: record, until: born + pool.patience, origin: origin) else { return }
    scene.served += 1
    let stay = scene.now + scene.draw(50...1_200)
    if origin == .rest {
      // Sometimes nobody comes.
      guard !scene.chance(15), try await attach(id, granted) else { return }
    } else {
      sockets.insert(id)
      scene.runtime.reach(instance: granted.instance, port: granted.port, session: id)
    }
    while scene.now < stay {
      try await scene.sleep(Swift.min(400, stay - scene.now), process)
      if scene.chance(70) { touched.insert(id) }
      // Its browser has died: so has its socket.
      if scene.runtime.living(instance: granted.instance) == nil { break }
    }
    try await leave(id, isRest: origin == .rest)
  }

  /// Asks again and again, as replicas and REST do for those who wait.
  private func wait(for record: SessionRecord, until deadline: Int, origin: SessionRecord.Origin) async throws
    -> SessionRecord?
  {
    while true {
      let seen = scene.rings
      do {
        let now = scene.now
        let grant = try await run(
          leases.acquire(
            record, holder: origin == .rest ? nil : name, reserveMilliseconds: nil, queue: true, now: now))
        switch grant {
        case .granted(let session): return session
        case .queued: break
        case .queueFull, .busy, .unknown: return nil
        }
      } catch is Away {}
      let again = scene.now + 1_500
      repeat { try await scene.sleep(120, process) } while scene.rings == seen && scene.now < Swift.min(again, deadline)
      if scene.now >= deadline {
        scene.gaveUp += 1
        scene.tell("\(record.id) does not wait any longer")
        _ = try? await run(leases.cancelWaiting(session: record.id, pool: record.pool))
        // A slot that came at the last moment is nobody's.
        _ = try? await run(leases.end(session: record.id, reason: "client", now: scene.now))
        return nil
      }
    }
  }

  private func attach(_ id: String, _ granted: SessionRecord) async throws -> Bool {
    do {
      guard case .granted(let session) = try await run(leases.attach(session: id, holder: name, now: scene.now)) else {
        return false
      }
      sockets.insert(id)
      scene.runtime.reach(instance: session.instance, port: session.port, session: id)
      return true
    } catch is Away { return false }
  }

  private func leave(_ id: String, isRest: Bool) async throws {
    sockets.remove(id)
    for _ in 0..<20 {
      do {
        try await run(leases.detach(session: id, holder: name, now: scene.now))
        // Half of the clients delete what they made, the others leave it to its limits.
        if isRest, scene.chance(50) { _ = try await run(leases.end(session: id, reason: "client", now: scene.now)) }
        return
      } catch is Away { try await scene.sleep(300, process) }
    }
  }
}

/// What a client knows of a pool.
struct PoolSpecOfClient: Sendable {
  var name: String
  var hard: Int
  var idle: Int
  var grace: Int
  var patience: Int
}
