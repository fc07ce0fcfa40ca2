// The failure rows of the design that need whole processes: something is killed while a script works.
import Glibc
import JSON
import Routing
import State
import Testing

extension EndToEnd {
  @Suite struct Failures {
    @Test func aScriptGoesOnWhileTheControlPlaneAndTheOtherReplicaAreKilled() async throws {
      try await Deployment.with(replicas: 2) { berth in
        let script = try Client.Worker(berth, endpoint: berth.url)
        try await script.works(rounds: 5)
        let own = try await holder(in: berth)
        let other = own == 0 ? 1 : 0

        let leader = try #require(berth.leader)
        berth.control.signal(SIGKILL)
        berth.replicas[other].signal(SIGKILL)
        #expect(try await berth.control.ended(within: 60) == .killed(SIGKILL))
        #expect(try await berth.replicas[other].ended(within: 60) == .killed(SIGKILL))
        try await script.works(rounds: 30)

        try berth.restartControl()
        try berth.restartReplica(other)
        try await berth.newLeader(after: leader)
        try await berth.ready()
        try await script.works(rounds: 10)
        #expect(try berth.leases() == 1)
        let answer = try await script.finish()
        #expect(answer["rounds"]?.int ?? 0 >= 45)
      }
    }

    @Test func theSlotOfAKilledReplicaComesBack() async throws {
      try await Deployment.with(replicas: 2) { berth in
        let script = try Client.Worker(berth, endpoint: berth.url)
        try await script.works(rounds: 3)
        let own = try await holder(in: berth)
        berth.replicas[own].signal(SIGKILL)
        #expect(try await script.program.ended(within: 60) != .exited(0), "its socket is gone")
        try await eventually("the lease comes back", within: 60, show: berth.control) {
          try berth.leases() == 0 ? () : nil
        }
        // The replica that is left serves whoever comes next.
        let next = try await Client.playwright(berth.url, in: berth)
        #expect(next["sessions"]?.array?.count == 1)
        try berth.restartReplica(own)
        try await berth.ready()
      }
    }

    @Test func chromesAreAdoptedByTheNextControlPlane() async throws {
      try await Deployment.with { berth in
        try await berth.settles()
        let before = Set(berth.browsers().map(\.pid))
        let leader = try #require(berth.leader)
        berth.control.signal(SIGKILL)
        #expect(try await berth.control.ended(within: 60) == .killed(SIGKILL))
        try berth.restartControl()
        try await berth.newLeader(after: leader)
        try await berth.settles()
        #expect(Set(berth.browsers().map(\.pid)) == before, "the same Chromes, none started anew")
      }
    }

    @Test func aKilledChromeIsReplaced() async throws {
      try await Deployment.with { berth in
        try await berth.settles()
        let victim = try #require(try berth.instances().first { $0.state == .ready })
        kill(pid_t(try #require(victim.pid)), SIGKILL)
        try await eventually("its record is gone", show: berth.control) {
          try berth.instances().contains { $0.id == victim.id && $0.pid == victim.pid } ? nil : ()
        }
        try await berth.settles()
        let next = try await Client.playwright(berth.url, in: berth)
        #expect(next["sessions"]?.array?.count == 1)
      }
    }

    /// The index of the replica that holds the only session's sockets.
    private func holder(in berth: Deployment) async throws -> Int {
      guard case .array(let members) = try berth.ask("ZRANGE", Keys().leases(pool: "chrome"), "0", "-1"),
        members.count == 1, case .string(let session) = members[0],
        case .array(let fields) = try berth.ask(
          "HKEYS", Keys().lease(session: String(decoding: session, as: UTF8.self)))
      else { throw Failure("there is no one lease") }
      for case .string(let field) in fields {
        let name = String(decoding: field, as: UTF8.self)
        if name.hasPrefix("holder:data-"), let number = Int(name.dropFirst("holder:data-".count)) { return number - 1 }
      }
      throw Failure("no replica holds the session: \(fields)")
    }
  }
}
