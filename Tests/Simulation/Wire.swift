// The way to Redis: commands of the product go to a real redis-server, one at a time, with delays, losses and repetitions
// that the seed decides. After each one the books are checked.
import Redis
import Routing
import State
import TestSupport

@Simulated final class Wire {
  private unowned let scene: Scene
  private let connection: RedisConnection
  let keys = Keys(prefix: "berth:")
  private(set) var commands = 0
  private var lastRing = 0
  /// The scripts as they are sent, by name.
  private var rewritten: [String: Script] = [:]

  init(_ scene: Scene, connection: RedisConnection) {
    self.scene = scene
    self.connection = connection
  }

  /// Sends a command for a process. Lost ones are repeated as the product's client does it, or end with ``Away``.
  /// - Parameter executed: told of the result at the moment at which Redis has it, whatever the sender hears.
  func run<R: Sendable>(
    _ command: Command<R>, by process: Process, executed: (R) -> Void = { _ in }
  ) async throws -> R {
    var attempt = 0
    while true {
      attempt += 1
      // On its way it is executed even if its sender dies or is paused meanwhile.
      try await scene.transit(scene.chance(scene.faults.slowAnswers) ? scene.draw(5...400) : scene.draw(0...2))
      if scene.redisAwayUntil > scene.now {
        try await scene.sleep(scene.draw(50...300), process)
        throw Away()
      }
      if !scene.chance(scene.faults.lostRequests) {
        let result = execute(command)
        if case .success(let value) = result { executed(value) }
        if !scene.chance(scene.faults.lostAnswers) {
          let wait = scene.chance(scene.faults.slowAnswers) ? scene.draw(5...400) : scene.draw(0...2)
          try await scene.sleep(wait, process)
          return try result.get()
        }
      }
      try await scene.sleep(scene.draw(50...500), process)
      guard command.mayRepeat, attempt < 2 else { throw Away() }
    }
  }

  /// Runs a command now, and looks whether all is well after it.
  private func execute<R: Sendable>(_ command: Command<R>) -> Result<R, any Error> {
    commands += 1
    expireLeader()
    do {
      let body = mutated(command.body)
      var reply: Reply
      if let ticket = Invariants.ticket(of: body) {
        let both = try connection.pipeline([Invariants.queue(ticket, keys: keys), Command(body) { $0 }])
        reply = try both[1].get()
        if let overtaken = Invariants.overtakes(try both[0].get(), reply) {
          scene.problem("\(ticket.session) \(overtaken)")
        }
      } else {
        reply = try connection.run(Command(body) { $0 })
      }
      if scene.isTold, Self.mayChange(body, reply), case .script(let script, _, let arguments) = body {
        // The shared scripts' own arguments begin with the fifth.
        let own = arguments.count > 4 ? arguments[4...] : arguments[...]
        print("  \(scene.now - Scene.start) \(script.name) \(own.filter { $0.utf8.count < 20 }.joined(separator: " "))")
      }
      if Self.mayChange(body, reply) || commands % 16 == 0 { try checkBooks() }
      return Result { try command.parse(reply) }
    } catch let error as RedisError where error.isFenced {
      return .failure(error)
    } catch {
      scene.problem("Redis: \(error)")
      return .failure(Died())
    }
  }

  /// Whether the books can be others than before: most commands are questions, or found nothing to do.
  private static func mayChange(_ body: CommandBody, _ reply: Reply) -> Bool {
    guard case .script(let script, _, _) = body else { return false }
    switch script.name {
    case "leases.figures", "leadership.campaign", "leadership.renew", "simulation.leases": return false
    case "leases.endExpired", "ports.reclaim": return reply != .array([])
    case "leases.acquire":
      guard case .array(let parts) = reply else { return true }
      return parts.first?.text == "granted"
    default: return true
    }
  }

  private func checkBooks() throws {
    let books = try connection.run(Invariants.books(scene, keys: keys)).list(of: "books")
    for text in books.dropFirst() { scene.problem(text.text ?? "?") }
    guard let rung = books.first?.text.flatMap({ Int($0) }), rung != lastRing else { return }
    lastRing = rung
    scene.rings += 1
  }

  /// A look from outside of the simulation's time.
  func peek(_ words: [String]) -> Reply {
    do throws(RedisError) { return try connection.run(Command(.words(words)) { $0 }) } catch {
      scene.problem("Redis: \(error)")
      return .null
    }
  }

  /// The leader's lease is over when nobody has renewed it in simulated time.
  func expireLeader() {
    guard scene.leader != nil, scene.now >= scene.leaderUntil else { return }
    scene.tell("the lease of \(scene.leader ?? "") ends")
    scene.leader = nil
    _ = peek(["DEL", keys.leader])
  }

  /// As the product has it, but for the doorbell, which is counted instead of published, and for the scene's mutation.
  private func mutated(_ body: CommandBody) -> CommandBody {
    guard case .script(let script, let keys, let arguments) = body else { return body }
    var changed = script
    if let known = rewritten[script.name] {
      changed = known
    } else {
      changed = Script(
        name: script.name,
        source: script.source.replacing("call('PUBLISH', wake_channel, pool)", with: "call('INCR', prefix .. 'rings')"))
      if let mutation = scene.mutation, let (from, to) = mutation.rewriting[script.name] {
        let broken = changed.source.replacing(from, with: to, maxReplacements: 1)
        if broken == changed.source { scene.problem("the mutation \(mutation) does not fit \(script.name) any more") }
        changed = Script(name: script.name, source: broken)
      }
      rewritten[script.name] = changed
    }
    return .script(changed, keys: keys, arguments: arguments)
  }
}
