// Why a client's connection ended: every close has one, every one is counted (`berth_closes_total{reason}`).

package enum CloseReason: UInt8, Sendable, CaseIterable, BitwiseCopyable {
  // What a well-behaved peer does.
  case clientClosed, responseComplete, tunnelEnded, browserClosed, idleKeepAlive, idleGivenUp
  // The client's doing.
  case clientAborted, clientReset, badRequest
  case headTimeout, bodyTimeout, bodyTooSlow, bodyTooLarge, slowReader, handshakeFailed, handshakeTimeout
  case badProxyHeader, rateLimited, tooManyConnections, unauthorized, badOrigin, addressDenied
  // The instance's doing.
  case connectFailed, connectTimeout, instanceClosedEarly, instanceReset, badResponse
  case firstByteTimeout, cutBody, instanceStalled
  // Ours.
  case noRoute, refused, queueFull, queueTimeout, sessionEnded, tunnelIdle, drained, drainDeadline, overloaded,
    internalError

  /// The label in metrics and logs, in lower snake case.
  package var label: String {
    var text = ""
    for character in String(describing: self) {
      if character.isUppercase { text += "_" }
      text += character.lowercased()
    }
    return text
  }
}
