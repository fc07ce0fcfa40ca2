// Whether the client of a connection has gone while its request is being answered. A create may wait for a slot for half
// a minute; a client that gave up meanwhile must not get a browser that nobody uses. (Hummingbird's own
// consumeWithCancellationOnInboundClose traps when the body was read before, or when a client breaks off in the middle
// of its body, so any client could end the control plane through it.)
import NIOCore
import Synchronization

/// Stands in each connection's pipeline and remembers its end.
final class HangUp: ChannelInboundHandler, RemovableChannelHandler, Sendable {
  typealias InboundIn = NIOAny

  private let gone = Atomic(false)

  var clientHasGone: Bool { gone.load(ordering: .relaxed) }

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
