// Redis for async code: the control plane's REST handlers and reconciler. Its threads own the blocking connections;
// a command waits in a bounded queue, and what waits together goes out together.
import Posix
package import State

/// What became of an exchange with Redis, for whoever keeps figures.
package enum RedisExchange: Sendable, Equatable {
  /// So many commands were answered together; some of them with an error, perhaps.
  case answered(commands: Int, microseconds: Int)
  /// The connection was lost, or the answer did not come in time.
  case failed
  /// There was no connection to be had.
  case unreachable
}

/// An async client with threads and connections of its own. It connects with the first command and again whenever the
/// connection is lost, with jittered backoff; commands that come while Redis is away fail after the next try, and say
/// why. A command that may be repeated (every script of State) is sent once more when its answer was lost.
package final class RedisClient: Sendable {
  private let core: Core

  /// - `threads`: how many connections; one is enough unless scripts are long.
  /// - `queueLimit`: commands that may wait; the next one fails with ``RedisError/queueFull(_:)``.
  /// - `observe`: called after each exchange, on the client's threads.
  package init(
    url: RedisURL, options: RedisOptions = RedisOptions(), threads: Int = 2, queueLimit: Int = 4_096,
    observe: @escaping @Sendable (RedisExchange) -> Void = { _ in }
  ) throws(RedisError) {
    precondition(threads > 0 && queueLimit > 0)
    core = try Core(url: url, options: options, threads: threads, queueLimit: queueLimit, observe: observe)
    for interrupter in core.interrupters { startThread { [core] in core.work(interrupter) } }
  }

  deinit { core.stop(then: {}) }

  package var url: RedisURL { core.url }

  /// Runs a command. The cancellation of the task is not looked at: limits of time bound the wait.
  @discardableResult
  package func run<R: Sendable>(_ command: Command<R>) async throws(RedisError) -> R {
    let answer = await withCheckedContinuation {
      (continuation: CheckedContinuation<Result<Reply, RedisError>, Never>) in
      core.submit(Job(body: command.body, mayRepeat: command.mayRepeat) { continuation.resume(returning: $0) })
    }
    return try answer.get().read(command)
  }

  /// Takes no more commands, runs those that wait if Redis can be reached, and ends the threads.
  package func shutdown() async {
    await withCheckedContinuation { continuation in core.stop { continuation.resume() } }
  }
}

/// A command in the queue.
private struct Job: Sendable {
  let body: CommandBody
  let mayRepeat: Bool
  var wasSent = false
  let complete: @Sendable (Result<Reply, RedisError>) -> Void

  init(body: CommandBody, mayRepeat: Bool, complete: @escaping @Sendable (Result<Reply, RedisError>) -> Void) {
    self.body = body
    self.mayRepeat = mayRepeat
    self.complete = complete
  }
}

/// What the client and its threads share.
private final class Core: Sendable {
  /// Commands of one round trip.
  static let batch = 64

  let url: RedisURL
  private let options: RedisOptions
  private let queueLimit: Int
  private let observe: @Sendable (RedisExchange) -> Void
  /// Ends connects and waits between them at a shutdown.
  let interrupters: [RedisInterrupter]

  private struct State {
    var waiting: [Job] = []
    var stopping = false
    var running: Int
    var connected = 0
    var whenStopped: [@Sendable () -> Void] = []
  }
  private let monitor: Monitor<State>

  init(
    url: RedisURL, options: RedisOptions, threads: Int, queueLimit: Int,
    observe: @escaping @Sendable (RedisExchange) -> Void
  ) throws(RedisError) {
    self.observe = observe
    self.url = url
    self.options = options
    self.queueLimit = queueLimit
    var interrupters: [RedisInterrupter] = []
    for _ in 0..<threads { interrupters.append(try RedisInterrupter()) }
    self.interrupters = interrupters
    monitor = Monitor(State(running: threads))
  }

  func submit(_ job: Job) {
    let refusal = monitor.withLock(wake: true) { state -> RedisError? in
      if state.stopping { return .shutdown }
      guard state.waiting.count < queueLimit else {
        return .queueFull(
          "\(queueLimit) commands wait for Redis at \(url) already; it is too slow for them, or cannot be reached")
      }
      state.waiting.append(job)
      return nil
    }
    if let refusal { job.complete(.failure(refusal)) }
  }

  func stop(then done: @escaping @Sendable () -> Void) {
    let (stopped, connected) = monitor.withLock(wake: true) { state -> (Bool, Int) in
      state.stopping = true
      if state.running > 0 { state.whenStopped.append(done) }
      return (state.running == 0, state.connected)
    }
    if stopped { done() }
    // Nobody has a connection: do not wait for one.
    if connected == 0 { for interrupter in interrupters { interrupter.interrupt() } }
  }

  /// What a thread does.
  func work(_ interrupter: RedisInterrupter) {
    var connection: RedisConnection?
    var backoff = Backoff()
    // true: there is a command; false: the client stops and none is left.
    while monitor.wait({ state in state.waiting.isEmpty ? (state.stopping ? false : nil) : true }) == true {
      if let open = connection, open.isStale { drop(&connection) }
      guard let open = connection ?? connect(interrupter, &backoff) else { continue }
      connection = open
      let jobs = monitor.withLock { state in
        let jobs = Array(state.waiting.prefix(Core.batch))
        state.waiting.removeFirst(jobs.count)
        return jobs
      }
      run(jobs, on: open)
      if !open.isOpen { drop(&connection) }
    }
    drop(&connection)
    let done = monitor.withLock { state in
      state.running -= 1
      return state.running == 0 ? state.whenStopped : []
    }
    for done in done { done() }
  }

  private func drop(_ connection: inout RedisConnection?) {
    guard let open = connection else { return }
    open.close()
    connection = nil
    monitor.withLock { $0.connected -= 1 }
  }

  /// A new connection, or nil after a failure and the wait that follows it. When no other thread has a connection
  /// either, the commands that wait fail with the reason.
  private func connect(_ interrupter: RedisInterrupter, _ backoff: inout Backoff) -> RedisConnection? {
    do throws(RedisError) {
      let connection = try RedisConnection(url: url, options: options, interrupter: interrupter)
      monitor.withLock { $0.connected += 1 }
      backoff.reset()
      return connection
    } catch {
      let failed = monitor.withLock { state -> [Job] in
        guard state.connected == 0 else { return [] }
        defer { state.waiting = [] }
        return state.waiting
      }
      if error != .interrupted { observe(.unreachable) }
      for job in failed { job.complete(.failure(error == .interrupted ? .shutdown : error)) }
      let pause = backoff.next(random: UInt64.random(in: 0 ... .max))
      _ = monitor.wait(milliseconds: pause) { state in state.stopping ? true : nil }
      return nil
    }
  }

  private func run(_ jobs: [Job], on connection: RedisConnection) {
    let began = Clock.monotonicMicroseconds
    do throws(RedisError) {
      let replies = try connection.exchange(jobs.map(\.body))
      observe(.answered(commands: jobs.count, microseconds: Clock.monotonicMicroseconds - began))
      for (job, reply) in zip(jobs, replies) { job.complete(.success(reply)) }
      // A server that has become a replica, or loads its data, says so to every command: look for another.
      if replies.contains(where: \.isTemporaryError) { connection.close() }
    } catch {
      observe(.failed)
      var again: [Job] = []
      for job in jobs {
        if case .closed = error, job.mayRepeat, !job.wasSent {
          var job = job
          job.wasSent = true
          again.append(job)
        } else {
          job.complete(.failure(error))
        }
      }
      // In front, and beyond the queue's limit: they have waited once.
      if !again.isEmpty { monitor.withLock(wake: true) { $0.waiting.insert(contentsOf: again, at: 0) } }
    }
  }
}

extension Reply {
  fileprivate var isTemporaryError: Bool {
    if case .error(let message) = self { RedisError.isTemporary(message) } else { false }
  }
}
