// Whether an answer has reached its client's connection. A create whose client breaks off in the moment of the answer must
// not leave a browser that nobody knows of. What the kernel has taken counts as delivered: a client that dies after that,
// before it reads, has its session until the session's limits.
import Hummingbird
import NIOCore
import Synchronization

/// The delivery of one answer; what was promised in it is undone when it fails.
final class Delivery: Sendable {
  private let line: HangUp?
  private let loop: any EventLoop
  private let undo: @Sendable () async -> Void
  private let isSettled = Atomic(false)

  init(over line: HangUp?, of channel: any Channel, undo: @escaping @Sendable () async -> Void) {
    self.line = line
    loop = channel.eventLoop
    self.undo = undo
    line?.watchWrites()
  }

  /// The answer was never begun: its head could not be written.
  deinit {
    if !isSettled.load(ordering: .relaxed) { Task { [undo] in await undo() } }
  }

  @concurrent func write(_ buffer: ByteBuffer, to writer: inout any ResponseBodyWriter) async throws {
    defer { isSettled.store(true, ordering: .relaxed) }
    do {
      try await writer.write(buffer)
      if let line {
        // Writes come to the event loop in the order of these calls, so the last one is known when this comes back.
        try await loop.submit { line.lastWrite }.get()?.get()
        if line.wasGoneAtWrite { await undo() }
      }
    } catch {
      await undo()
      throw error
    }
    // With its last byte the client has its answer, and may be gone before the end of it is noted here.
    try await writer.finish(nil)
  }
}
