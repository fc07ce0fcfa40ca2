// Servers that run whether Berth runs or not: it balances and watches them, and with commands it can restart them.

/// The servers of a pool of runtime `static`.
package struct FixedSpec: Sendable, Equatable {
  package var servers: [FixedServer]
  package init(servers: [FixedServer]) { self.servers = servers }
}

package struct FixedServer: Sendable, Equatable {
  /// An IPv4 or IPv6 literal.
  package var address: String
  package var port: Int
  package var weight: Int
  /// Words of a program and its arguments; empty = there is no such command.
  package var start: [String] = []
  package var stop: [String] = []
  package var restart: [String] = []

  package init(address: String, port: Int, weight: Int = 1) {
    self.address = address
    self.port = port
    self.weight = weight
  }

  /// Whether it can be ended and come back.
  package var canRestart: Bool { !restart.isEmpty || (!start.isEmpty && !stop.isEmpty) }

  /// The instance's name: the same for the same server, whatever else is declared.
  package func id(in pool: String) -> String {
    "\(pool)-\(address.map { $0 == ":" ? "_" : String($0) }.joined())-\(port)"
  }
}
