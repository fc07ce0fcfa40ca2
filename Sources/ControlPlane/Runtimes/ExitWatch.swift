// Tells when processes end, by pidfd, so that it works for children and for adopted instances alike, and reaps the
// children. A watch outlives whoever asked for it: a control plane that lost its leadership must still reap.
import Dispatch
import Synchronization

final class ExitWatch: Sendable {
  private let watches = Mutex<[ProcessIdentity: Task<InstanceExit, Never>]>([:])
  private let queue = DispatchQueue(label: "berth.exits")

  /// Begins to watch; nothing happens when it is watched already.
  func begin(_ identity: ProcessIdentity) { _ = task(for: identity) }

  /// Returns when the process has ended.
  func exit(of identity: ProcessIdentity) async -> InstanceExit { await task(for: identity).value }

  /// Forgets a process that has ended and been dealt with.
  func forget(_ identity: ProcessIdentity) { watches.withLock { _ = $0.removeValue(forKey: identity) } }

  private func task(for identity: ProcessIdentity) -> Task<InstanceExit, Never> {
    watches.withLock { watches in
      if let task = watches[identity] { return task }
      let task = Task { await self.wait(for: identity) }
      watches[identity] = task
      return task
    }
  }

  private func wait(for identity: ProcessIdentity) async -> InstanceExit {
    guard let pidfd = Kernel.openProcess(identity.pid) else { return InstanceExit() }
    // The descriptor is bound to a process now; only if that is still the right one is it worth waiting for.
    guard let entry = ProcessTable.entry(of: identity.pid), entry.start == identity.start else {
      Kernel.close(pidfd)
      return InstanceExit()
    }
    await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
      let source = DispatchSource.makeReadSource(fileDescriptor: pidfd, queue: queue)
      source.setEventHandler { source.cancel() }
      source.setCancelHandler {
        Kernel.close(pidfd)
        continuation.resume()
      }
      source.resume()
    }
    guard let (status, signal) = Kernel.reap(identity.pid) else { return InstanceExit() }
    return signal == 0 ? InstanceExit(status: status) : InstanceExit(signal: signal)
  }
}
