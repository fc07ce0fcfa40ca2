// Every bound and wait of the data plane, with its unit and reason. Nothing in Engine waits or grows without one of these.
package import HTTPWire

package struct EngineLimits: Sendable {
  package var http = HTTPLimits()

  // Waits, in milliseconds.
  /// From accept to a finished TLS handshake: several round trips of a bad mobile line.
  package var handshakeMilliseconds = 10_000
  /// From a head's first byte to its last, so that slow senders of heads do not pile up.
  package var headMilliseconds = 10_000
  /// Between two requests of a client's connection.
  package var keepAliveMilliseconds = 60_000
  /// For one connection attempt to an instance, which is near.
  package var connectMilliseconds = 3_000
  /// From the request's end to the first byte of the answer: scrapes take minutes.
  package var firstByteMilliseconds = 300_000
  /// Between two pieces of a body, in either direction.
  package var bodyMilliseconds = 60_000
  /// From a request body's first piece on, before its rate counts: a bad line may stand still for a while.
  package var bodyGraceMilliseconds = 30_000
  /// Without a byte in a tunnel that has no session limits of its own.
  package var tunnelIdleMilliseconds = 86_400_000
  /// After one side of a tunnel has ended, for the other to follow; and for a refused client to read its answer.
  package var lingerMilliseconds = 2_000
  /// A kept connection to an instance: shorter than the usual 60 s of servers, so that they rarely close first.
  package var instanceIdleMilliseconds = 30_000
  /// For the coordinator's answer, beyond the pool's queue timeout: it is late only when something is broken.
  package var coordinatorMilliseconds = 10_000
  /// For a slot after the client has ended its side: most such clients are gone and must not keep a place in a queue, but
  /// one that only says that its request is complete gets its answer when a slot is there at once.
  package var goneMilliseconds = 1_000
  /// For the coordinator to say where a job is that another replica has seen; then any instance is tried.
  package var jobMilliseconds = 250

  // Sizes, in bytes or counts.
  /// That a request's body must bring in each second on average, so that nobody keeps an instance busy with a byte now and
  /// then; 0 = any. Far below the slowest line, and far above who sends a byte before each deadline.
  package var bodyBytesPerSecond = 100
  /// One read of a body or tunnel at its smallest and largest: it doubles while reads fill it and the target takes all.
  package var smallestPiece = 65_536
  package var largestPiece = 1_048_576
  /// Reads of a connection before others get their turn.
  package var roundsPerTurn = 8
  /// Kept connections per instance and worker.
  package var idleInstanceConnections = 512
  /// Client connections per worker; beyond that accepting pauses, and the kernel's backlog fills.
  package var clientConnections = 100_000
  /// A discovery answer that is rewritten: /json/list of a Chrome with a thousand tabs stays below.
  package var discoveryBytes = 4_194_304
  package var listenBacklog: Int32 = 4_096
  /// Kernel pipes kept for splicing, each of up to ``pipeBytes``.
  package var pooledPipes = 64
  package var pipeBytes = 1_048_576

  // TCP keep-alive of clients and instances, in seconds: a peer that vanished is noticed within two minutes.
  package var keepAliveIdleSeconds: Int32 = 60
  package var keepAliveIntervalSeconds: Int32 = 15
  package var keepAliveProbes: Int32 = 4

  package init() {}
}

/// When long plain pieces are moved by splice(2) instead of through the worker's buffer.
package enum SpliceMode: String, Sendable, CaseIterable {
  /// Only for clients that are not on this machine: over loopback, copying was measured to be cheaper.
  case auto, always, never
}
