// Listeners that one process gives to the next, so that an upgrade refuses nobody: closing a listener resets what waits in
// its queue, but a queue lives as long as any process has it open. Engine takes them instead of opening its own;
// Handover.swift carries them from process to process.
package import Posix

/// A listening socket with what it is for.
package struct HandoverListener: Sendable, Equatable {
  package enum Kind: String, Sendable { case plain, tls, admin }
  package let kind: Kind
  package let address: SocketAddress
  package let descriptor: Int32

  package init(kind: Kind, address: SocketAddress, descriptor: Int32) {
    self.kind = kind
    self.address = address
    self.descriptor = descriptor
  }

  package static func == (left: HandoverListener, right: HandoverListener) -> Bool {
    left.kind == right.kind && left.descriptor == right.descriptor
      && left.address.description == right.address.description
  }
}
