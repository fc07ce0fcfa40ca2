// Instances whose memory grows under load, as a process and as a container of a real engine: each is drained and replaced when
// it is above its limit, and no request fails. It takes more than a minute, since memory counts from the second minute on.
import Foundation
import JSON
import Posix
import Redis
import Routing
import State
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct DockerGrowth {
    private static let limit = 48

    /// A server that keeps what it is sent, as far as it goes: kept connections, bodies, /slow, as clients/worn_server.py.
    private static let hoarder = #"""
      use strict; use warnings; use IO::Socket::INET; $| = 1;
      my ($port, $keep) = @ARGV; my @kept; my $size = 0; $SIG{PIPE} = "IGNORE"; $SIG{CHLD} = "IGNORE";
      my $listener = IO::Socket::INET->new(LocalPort => $port, Listen => 128, ReuseAddr => 1) or die $!;
      use IO::Select; my $all = IO::Select->new($listener); my %in;
      while (1) { for my $s ($all->can_read) {
        if ($s == $listener) { my $c = $s->accept or next; $all->add($c); $in{$c} = ""; next }
        my $n = sysread($s, $in{$s}, 65536, length $in{$s});
        if (!$n) { $all->remove($s); delete $in{$s}; close $s; next }
        while ($in{$s} =~ /\r\n\r\n/) {
          my ($head, $rest) = split /\r\n\r\n/, $in{$s}, 2;
          my $length = $head =~ /content-length: *(\d+)/i ? $1 : 0;
          last if length($rest) < $length;
          my $body = substr($rest, 0, $length); $in{$s} = substr($rest, $length);
          my $answer = $head =~ m{^\S+ /health} ? "" : "served $body";
          if ($answer ne "" and $size < $keep << 20) { push @kept, "x" x 131072; $size += 131072 }
          syswrite($s, "HTTP/1.1 200 OK\r\nContent-Length: " . length($answer) . "\r\n\r\n" . $answer);
        }
      } }
      """#

    @Test func instancesThatGrowAboveTheirLimitAreReplacedUnderLoad() async throws {
      let out = try Docker.run("bash", [Machine.checkout + "/scripts/test-engine", "host"])
      let engine = out.trimmingCharacters(in: .whitespacesAndNewlines)
      let owner = "e2e-\(UInt32.random(in: 0...UInt32.max))"
      let ports = try Machine.freePorts(20)
      func containers() throws -> [String] {
        try Docker.run(
          "docker", ["--host", engine, "ps", "-aq", "--no-trunc", "--filter", "label=berth.owner=\(owner)"]
        ).split(whereSeparator: \.isNewline).map(String.init)
      }
      defer {
        for container in (try? containers()) ?? [] {
          _ = try? Docker.run("docker", ["--host", engine, "rm", "-f", container])
        }
      }
      let scratch = try Machine.scratchDirectory("growth")
      defer { try? FileManager.default.removeItem(atPath: scratch) }
      let script = scratch + "/hoarder.pl"
      try Self.hoarder.write(toFile: script, atomically: true, encoding: .utf8)
      // The only thing in a container that is not in its image is what it is told: the program is one argument of perl.
      let program = JSON.string(Self.hoarder).text
      func pool(_ name: String, _ more: String) -> String {
        """
          \(name):
            kind: http
            healthPath: /health
            min: 1
            max: 1
            recycleAboveMemoryMegabytes: \(Self.limit)
            recycleJitterPercent: 0
            \(more)
        """
      }
      let configuration = """
        docker:
          owner: \(owner)
          hosts:
            local: {url: "\(engine)", portRangeStart: \(ports.lowerBound), portRangeEnd: \(ports.upperBound)}
        pools:
        \(pool("process", "command: perl\n    arguments: [\(script), \"{port}\", \"80\"]"))
        \(pool("container", "runtime: docker\n    image: debian:bookworm-slim\n    pull: never\n    containerPort: 8000\n    memoryMegabytes: 512\n    arguments: [perl, -e, \(program), \"8000\", \"80\"]"))
        routes:
          process: {path: /process, pool: process, retries: 0}
          container: {path: /container, pool: container, retries: 0}
        """
      let deployment = try Deployment(replicas: 2, configuration: configuration)
      do {
        try await deployment.ready()
        try await eventually("both instances are ready", within: Deployment.patience, show: deployment.control) {
          try deployment.readyInstances() == 2 ? () : nil
        }
        let first = try deployment.instances()
        try await eventually("both replicas route to them", within: 60, show: deployment.control) {
          deployment.admin.allSatisfy {
            (HTTP.get($0, "/routes")?.text ?? "").components(separatedBy: "\"state\":\"ready\"").count == 3
          } ? () : nil
        }
        let loads = ["process", "container"].map {
          PacedLoad(port: deployment.port, path: "/" + $0, clients: 4, pauseMilliseconds: 100)
        }
        let events = {
          try deployment.redis.connect().run(Events(keys: Keys()).recent(count: 1_000))
        }
        try await eventually("both have been replaced", within: 300, show: deployment.control) {
          for load in loads { if let failure = load.failures.first { throw Failure(failure) } }
          let gone = Set(try events().filter { $0.type == "instance.removed" }.map(\.id))
          return first.allSatisfy { gone.contains($0.id) } ? () : nil
        }
        for load in loads { try await load.stop() }
        for (load, name) in zip(loads, ["process", "container"]) {
          #expect(load.failures.isEmpty, "\(name): \(load.failures.prefix(3))")
          #expect(load.served > 500)
        }
        for record in first {
          let event = try #require(try events().first { $0.id == record.id && $0.type == "instance.recycling" })
          print("\(record.pool): \(event.reason)")
          #expect(event.reason.hasPrefix("it uses ") && event.reason.hasSuffix("was to use less than \(Self.limit)"))
          let types = try events().filter { $0.id == record.id }.reversed().map(\.type)
          #expect(
            types == [
              "instance.starting", "instance.ready", "instance.recycling", "instance.draining", "instance.stopping",
              "instance.removed",
            ], "\(types)")
        }
        let now = try deployment.instances()
        #expect(now.count == 2 && now.allSatisfy { $0.state == .ready })
        #expect(try containers().count == 1)
        try await deployment.stop()
        #expect(try containers().isEmpty)
      } catch {
        await deployment.abandon()
        throw error
      }
    }
  }
}
