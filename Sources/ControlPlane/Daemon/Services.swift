// The parts of the control plane as services: each runs until the group shuts down, and a later one in the group ends
// before an earlier one.
import API
import Redis
import ServiceLifecycle
import Supervisor

/// The connections to Redis; the first to start, the last to end.
struct RedisService: Service {
  let clients: [RedisClient]
  func run() async throws {
    try? await gracefulShutdown()
    for client in clients { await client.shutdown() }
  }
}

/// Hears the doorbell of Redis.
struct ListenerService: Service {
  let listener: WakeListener
  func run() async throws {
    await withGracefulShutdownHandler {
      await listener.run()
    } onGracefulShutdown: {
      listener.stop()
    }
  }
}

/// The lease and the supervisor's loop. At the end the lease is given up: at once, or after all instances are stopped.
struct LeadershipService: Service {
  let lease: LeaderLease
  let supervisor: Supervisor
  let stopsInstances: Bool

  func run() async throws {
    await withDiscardingTaskGroup { group in
      group.addTask { await lease.run() }
      group.addTask { await supervisor.run() }
      try? await gracefulShutdown()
      if stopsInstances { await supervisor.waitToLead() }
      await supervisor.stop(instances: stopsInstances)
      group.cancelAll()
    }
  }
}

struct RESTService: Service {
  let server: APIServer
  func run() async throws { try await server.run() }
}
