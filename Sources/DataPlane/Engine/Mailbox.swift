// How other threads speak to a worker: messages in a locked list and a doorbell in its poller.
import Posix
package import ProxyMachine
package import Routing
private import Synchronization

package final class Mailbox: WorkerInbox {
  enum Message: Sendable {
    case answer(SlotAnswer, ticket: UInt64)
    case job(JobOwner, ticket: UInt64)
    /// A place at an instance (by key) that became free, for a request that waits for it.
    case place(PlaceGate, UInt64, ticket: UInt64)
    case sessionEnded(String, reason: String)
    case table(RoutingTable)
    case loads([String: InstanceLoad])
    case replicas(Int)
    case block(Range<UInt64>, pool: String)
    case certificates(Certificates)
    case drain(deadlineMilliseconds: Int, keepsIdle: Bool)
  }

  let doorbell = Doorbell()
  private let messages = Mutex<[Message]>([])
  private let taken = Atomic<Int>(0)

  init() {}
  deinit { doorbell.close() }

  package func deliver(_ answer: SlotAnswer, ticket: UInt64) { post(.answer(answer, ticket: ticket)) }
  package func deliver(_ owner: JobOwner, ticket: UInt64) { post(.job(owner, ticket: ticket)) }
  package func end(session: String, reason: String) { post(.sessionEnded(session, reason: reason)) }
  package func replace(table: RoutingTable) { post(.table(table)) }
  package func update(loads: [String: InstanceLoad]) { post(.loads(loads)) }
  package func update(replicas: Int) { post(.replicas(replicas)) }
  package func lend(block: Range<UInt64>, pool: String) { post(.block(block, pool: pool)) }

  package var tablesTaken: Int { taken.load(ordering: .acquiring) }

  /// The worker's word that the next table is in force, and what it counted by the one before is counted.
  func tookTable() { taken.add(1, ordering: .releasing) }
  /// The worker has ended and routes by no table at all.
  func ended() { taken.store(Int.max, ordering: .releasing) }

  func post(_ message: Message) {
    let isFirst = messages.withLock { messages in
      messages.append(message)
      return messages.count == 1
    }
    if isFirst { doorbell.ring() }
  }

  func take() -> [Message] {
    doorbell.silence()
    return messages.withLock { messages in
      let taken = messages
      messages.removeAll()
      return taken
    }
  }
}
