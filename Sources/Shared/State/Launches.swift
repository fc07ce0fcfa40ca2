// Sessions that ask for a browser with options of their own. REST asks, and again and again while its client waits; the
// leader launches an instance for each, which nobody else gets (InstanceRecord.session), and REST takes it by its id.
import JSON
package import Routing

/// What is known of such a request.
package enum LaunchState: Sendable, Equatable {
  /// 1 = the first of its pool.
  case waiting(position: Int)
  /// The instance is there: `Leases.acquire` it by this id.
  case ready(instance: String)
  case failed(reason: String)
  /// As many wait as the pool allows.
  case full(waiting: Int)
  /// There is no such pool.
  case unknown
}

/// A request as the leader sees it.
package struct LaunchRequest: Sendable, Equatable {
  package let session: String
  package let options: LaunchOptions
  /// Its launch failed, and its client has yet to hear of it.
  package let hasFailed: Bool

  package init(session: String, options: LaunchOptions, hasFailed: Bool = false) {
    self.session = session
    self.options = options
    self.hasFailed = hasFailed
  }
}

/// The commands of those requests. Times are Unix milliseconds.
package struct Launches: Sendable {
  /// Requests of one pool that the leader sees at once, the oldest; the others wait for their turn anyway.
  package static let page = 100

  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Asks for an instance, first or again. A request that is not repeated for five seconds is forgotten.
  package func ask(session: String, pool: String, options: LaunchOptions, now: Int) -> Command<LaunchState> {
    keys.call(Self.askScript, now: now, [session, pool, options.json.text]) {
      (reply: Reply) throws(StateError) -> LaunchState in
      let parts = try reply.list(of: "launches.ask")
      let word = try parts.first?.string(of: "launches.ask")
      switch (word, parts.count) {
      case ("waiting", 2): return .waiting(position: try parts[1].int(of: "launches.ask"))
      case ("ready", 2): return .ready(instance: try parts[1].string(of: "launches.ask"))
      case ("failed", 2): return .failed(reason: try parts[1].string(of: "launches.ask"))
      case ("full", 2): return .full(waiting: try parts[1].int(of: "launches.ask"))
      case ("unknown", 1): return .unknown
      default: throw StateError("launches.ask: \"\(word ?? "")\" with \(parts.count) parts came from Redis")
      }
    }
  }

  /// The request is served, or nobody wants it any more.
  package func withdraw(session: String, pool: String) -> Command<Void> {
    keys.call(Self.withdrawScript, now: 0, [session, pool], parse: Read.nothing())
  }

  /// The requests of a pool, the oldest first.
  package func pending(pool: String) -> Command<[LaunchRequest]> {
    keys.call(Self.pendingScript, now: 0, [pool, String(Self.page)]) {
      (reply: Reply) throws(StateError) -> [LaunchRequest] in
      var requests: [LaunchRequest] = []
      for entry in try reply.list(of: "launches.pending") {
        let parts = try entry.list(of: "launches.pending", count: 3)
        let (session, text) = (try parts[0].string(of: "launches.pending"), try parts[1].string(of: "launches.pending"))
        do {
          var fields = try Fields(JSON(parsing: text), of: "launch of \(session)")
          requests.append(
            LaunchRequest(
              session: session, options: try LaunchOptions(&fields),
              hasFailed: try parts[2].int(of: "launches.pending") == 1))
        } catch {
          throw StateError("launches.pending: \(error)")
        }
      }
      return requests
    }
  }

  /// Tells the client of a request that there will be no instance.
  package func fail(session: String, pool: String, reason: String) -> Command<Void> {
    keys.call(Self.failScript, now: 0, [session, pool, reason], parse: Read.nothing())
  }
}

extension Launches {
  private static let askScript = SharedScript.script(
    "launches.ask",
    #"""
    local session, pool_name, options = ARGV[5], ARGV[6], ARGV[7]
    local request, queue = launch_key(session), launches_key(pool_name)
    local pool = record(pools_key, pool_name)
    if not pool then return {'unknown'} end
    if call('EXISTS', request) == 0 then
      -- Those whose clients have gone count no more.
      for _, other in ipairs(call('ZRANGE', queue, 0, -1)) do
        if call('EXISTS', launch_key(other)) == 0 then call('ZREM', queue, other) end
      end
      local count = call('ZCARD', queue)
      if count >= tonumber(pool.queueLimit) then return {'full', count} end
      local last, arrival = call('ZREVRANGE', queue, 0, 0, 'WITHSCORES'), now
      if last[2] and tonumber(last[2]) >= now then arrival = tonumber(last[2]) + 1 end
      call('HSET', request, 'pool', pool_name, 'options', options)
      call('ZADD', queue, 'NX', arrival, session)
      wake(pool_name)
    end
    call('PEXPIRE', request, \#(SharedScript.waiterLifeMilliseconds))
    local failed, id = call('HGET', request, 'failed'), call('HGET', request, 'instance')
    if failed then return {'failed', failed} end
    local instance = id and record(instances_key, id)
    if instance and instance.session == session and instance.state == 'ready' then return {'ready', id} end
    return {'waiting', (call('ZRANK', queue, session) or 0) + 1}
    """#)

  private static let withdrawScript = SharedScript.script(
    "launches.withdraw",
    #"""
    call('DEL', launch_key(ARGV[5]))
    if call('ZREM', launches_key(ARGV[6]), ARGV[5]) == 1 then wake(ARGV[6]) end
    return 1
    """#)

  private static let pendingScript = SharedScript.script(
    "launches.pending",
    #"""
    local queue, found = launches_key(ARGV[5]), {}
    for _, session in ipairs(call('ZRANGE', queue, 0, tonumber(ARGV[6]) - 1)) do
      local request = call('HMGET', launch_key(session), 'options', 'failed')
      if request[1] then
        found[#found + 1] = {session, request[1], request[2] and 1 or 0}
      else
        call('ZREM', queue, session)
      end
    end
    return found
    """#)

  private static let failScript = SharedScript.script(
    "launches.fail",
    #"""
    if call('EXISTS', launch_key(ARGV[5])) == 0 then return 0 end
    call('HSET', launch_key(ARGV[5]), 'failed', ARGV[7])
    wake(ARGV[6])
    return 1
    """#)
}
