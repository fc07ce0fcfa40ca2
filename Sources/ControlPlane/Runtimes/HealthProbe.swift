// A health check from the outside, as deep as it is asked to go: port, answer, DevTools. The runtimes call it after they
// have looked at the process or container; so do those that wait for an instance to become ready.
package import Domain
import JSON
package import Routing

/// Why an instance is not well.
package struct HealthProblem: Error, Equatable, Sendable, CustomStringConvertible {
  /// Where it failed; what lies before that was well.
  package let depth: HealthDepth
  package let reason: String

  package init(_ depth: HealthDepth, _ reason: String) {
    self.depth = depth
    self.reason = reason
  }

  package var description: String { reason }
}

package enum HealthProbe {
  /// Threads for checks alone: instances that hang must hold up neither launches nor the checks of the others.
  package static let pool = BlockingPool(threads: 16)

  /// What is wrong with an instance whose process runs; nil = nothing, as far as was looked. Blocks.
  package static func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) -> HealthProblem? {
    guard depth >= .tcp else { return nil }
    let policy = spec.health
    let proxy = ProxyGreeting.local(version: spec.balancing.proxyProtocol)
    let stream: Stream
    do throws(ProbeError) {
      stream = try Stream(
        host: record.host, port: record.port, deadline: Deadline(milliseconds: policy.tcp.timeoutMilliseconds))
      // A server that waits for the header would complain of a connection without.
      if depth == .tcp, !proxy.isEmpty { try stream.send(proxy) }
    } catch {
      return HealthProblem(.tcp, error.description)
    }
    guard depth >= .http else { return nil }
    do throws(ProbeError) {
      stream.deadline = Deadline(milliseconds: policy.timeoutMilliseconds)
      if spec.kind == .cdp, let browser = record.browser {
        guard try HTTPProbe.identifyChrome(stream, record.host, record.port, proxy) == browser else {
          throw ProbeError("another browser answers at \(record.host):\(record.port)")
        }
      } else {
        try HTTPProbe.verifyServer(stream, record.host, record.port, path: policy.path, proxy)
      }
    } catch {
      return HealthProblem(.http, error.description)
    }
    guard depth >= .cdp, spec.kind == .cdp, let browser = record.browser else { return nil }
    do throws(ProbeError) {
      let answer = try CDPClient.call(
        "Browser.getVersion", host: record.host, port: record.port, browser: browser, proxyHeader: proxy,
        deadline: Deadline(milliseconds: policy.cdp.timeoutMilliseconds))
      guard answer != nil else { throw ProbeError("the browser closed the connection") }
      return nil
    } catch {
      return HealthProblem(.cdp, "Browser.getVersion: \(error.description)")
    }
  }

  /// Whether an instance that is starting answers: the browser's GUID for kind `cdp`. Throws what is wrong. Blocks.
  package static func identify(
    _ host: String, _ port: Int, spec: PoolSpec, deadline: Deadline
  ) throws(ProbeError) -> String? {
    let proxy = ProxyGreeting.local(version: spec.balancing.proxyProtocol)
    let stream = try Stream(host: host, port: port, deadline: deadline)
    guard spec.kind != .cdp else { return try HTTPProbe.identifyChrome(stream, host, port, proxy) }
    try HTTPProbe.verifyServer(stream, host, port, path: spec.health.path, proxy)
    return nil
  }
}

/// The header of the PROXY protocol that a connection of Berth's own begins with, in pools whose servers expect one: it
/// names no client (HAProxy's proxy-protocol.txt, 2.1 UNKNOWN and 2.2 LOCAL).
package enum ProxyGreeting {
  /// Empty for version 0: the pool's servers expect none.
  package static func local(version: Int) -> [UInt8] {
    switch version {
    case 1: Array("PROXY UNKNOWN\r\n".utf8)
    case 2: Array("\r\n\r\n\0\r\nQUIT\n\u{20}\0\0\0".utf8)
    default: []
    }
  }
}
