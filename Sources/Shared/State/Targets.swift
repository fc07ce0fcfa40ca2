// Which session a DevTools target belongs to. A discovery answer names targets to a session's client; a later WebSocket
// to a bare `/devtools/page/<id>`, perhaps at another replica, finds the session again through this.
package import Routing

package struct Targets: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Remembers a target until its time to live or its session ends. Nothing happens when the session is over.
  package func remember(target: String, session: String, ttlMilliseconds: Int) -> Command<Void> {
    precondition(ttlMilliseconds > 0)
    return Command(
      .script(
        Self.rememberScript,
        keys: [keys.lease(session: session), keys.leaseTargets(session: session), keys.target(target)],
        arguments: [session, target, String(ttlMilliseconds), String(SharedScript.targetsLimit)]),
      parse: Read.nothing())
  }

  package func session(of target: String) -> Command<String?> {
    Command(.words(["GET", keys.target(target)]), mayRepeat: true, parse: Read.optionalString("target"))
  }
}

extension Targets {
  static let rememberScript = Script(
    name: "targets.remember",
    source: #"""
      if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
      redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[3])
      if redis.call('SCARD', KEYS[2]) < tonumber(ARGV[4]) then redis.call('SADD', KEYS[2], ARGV[2]) end
      return 1
      """#)
}
