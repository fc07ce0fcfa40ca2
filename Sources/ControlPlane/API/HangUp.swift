// Whether the client of a connection has gone while its request is being answered. A create may wait for a slot for half
// a minute; a client that gave up meanwhile must not get a browser that nobody uses. (Hummingbird's own
// consumeWithCancellationOnInboundClose traps when the body was read before, or when a client breaks off in the middle
// of its body, so any client could end the control plane through it.)
import NIOCore
import Synchronization

/// Stands in each connection's pipeline and remembers its end, and what became of writes that somebody watches.
final class HangUp: ChannelInboundHandler, ChannelOutboundHandler, RemovableChannelHandler, Sendable {
  typealias InboundIn = NIOAny
  typealias OutboundIn = NIOAny

  private struct Writes {
    var areWatched = false
    var last: EventLoopFuture<Void>?
    var wasGone = false
  }
  private let gone = Atomic(false)
  private let writes = Mutex(Writes())

  var clientHasGone: Bool { gone.load(ordering: .relaxed) }

  /// From now on ``lastWrite`` and ``wasGoneAtWrite`` tell what became of the latest write.
  func watchWrites() { writes.withLock { $0 = Writes(areWatched: true) } }
  /// Succeeds when the kernel has taken everything.
  var lastWrite: EventLoopFuture<Void>? { writes.withLock { $0.last } }
  var wasGoneAtWrite: Bool { writes.withLock { $0.wasGone } }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    let gone = clientHasGone
    let promise = writes.withLock { writes -> EventLoopPromise<Void>? in
      guard writes.areWatched else { return promise }
      let promise = promise ?? context.eventLoop.makePromise(of: Void.self)
      writes.last = promise.futureResult
      writes.wasGone = gone
      return promise
    }
    context.write(data, promise: promise)
  }

  func channelInactive(context: ChannelHandlerContext) {
    gone.store(true, ordering: .relaxed)
    context.fireChannelInactive()
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    // A client that closes its sending half after a request is indistinguishable from one that has gone; no known
    // client waits for an answer like that.
    if case ChannelEvent.inputClosed? = event as? ChannelEvent { gone.store(true, ordering: .relaxed) }
    context.fireUserInboundEventTriggered(event)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    gone.store(true, ordering: .relaxed)
    context.fireErrorCaught(error)
  }
}
