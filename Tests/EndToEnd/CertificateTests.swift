// The daemon's TLS with a real client, `openssl s_client`: versions, names, resumption across replicas, client certificates,
// stapling, and files that change under it while connections are open.
import Foundation
import Glibc
import TLS
import Testing

extension EndToEnd {
  @Suite struct Certificate {
    /// A replica with TLS and the client that looks at it.
    struct Site {
      let place: Upgrade.Place
      var port: Int { place.tls }
      init() throws { place = try Upgrade.Place() }

      func file(_ name: String) -> String { place.directory + "/" + name }

      @discardableResult
      func openssl(_ words: [String], input: String = "") throws -> String {
        let process = Process()
        process.executableURL = URL(filePath: try Machine.tool("openssl"))
        process.arguments = words
        let (output, stdin) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = output
        process.standardInput = stdin
        try process.run()
        try stdin.fileHandleForWriting.write(contentsOf: Data(input.utf8))
        try stdin.fileHandleForWriting.close()
        let bytes = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return String(decoding: bytes, as: UTF8.self)
      }

      /// A request through TLS; all that the client prints, the answer included.
      func client(_ more: [String] = [], port: Int? = nil, name: String = "localhost") throws -> String {
        try openssl(
          ["s_client", "-connect", "127.0.0.1:\(port ?? self.port)", "-servername", name, "-ign_eof"] + more,
          input: "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
      }

      /// A self-signed certificate with its key in one file, in place at once.
      func certificate(_ file: String, name: String) throws {
        let (new, key) = (self.file("new.pem"), self.file("new.key"))
        try openssl([
          "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "5", "-subj",
          "/CN=\(name)", "-addext", "subjectAltName=DNS:\(name)", "-keyout", key, "-out", new,
        ])
        let text = try String(contentsOfFile: new, encoding: .utf8) + String(contentsOfFile: key, encoding: .utf8)
        try text.write(toFile: self.file(file), atomically: true, encoding: .utf8)
      }

      func metric(_ line: String) -> Bool {
        HTTP.get(place.admin, "/metrics")?.text.contains("\n" + line + "\n") == true
      }
    }

    @Test("versions, names, and what the log says of kernel TLS")
    func names() async throws {
      let site = try Site()
      try site.certificate("second.pem", name: "second.test")
      let replica = try site.place.start("replica", ["--certificate", site.file("second.pem")])
      try await site.place.serves(replica)
      for (version, said) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let seen = try site.client([version, "-CAfile", site.place.authority, "-verify_return_error"])
        #expect(seen.contains("Protocol  : \(said)") || seen.contains("New, \(said)"), "\(seen)")
        #expect(seen.contains("HTTP/1.1 200 OK") && seen.contains("\nok\n"), "\(seen)")
        #expect(try site.client([version], name: "second.test").contains("CN = second.test"))
      }
      #expect(try !site.client(["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).contains("200 OK"))
      try await eventually("that is counted", show: replica) {
        site.metric(#"berth_tls_failures_total{reason="version"} 1"#)
      }
      // Whatever the kernel can, the traffic above went through.
      #expect(replica.output.contains(#""kernel_tls":"#))
      try await replica.stop()
      try site.place.remove()
    }

    @Test("changed files are taken without dropping a connection, bad ones are not taken, SIGHUP reads at once")
    func reload() async throws {
      let site = try Site()
      try site.certificate("site.pem", name: "one.test")
      let wrong = try site.place.start(
        "wrong", certificate: false, ["--certificates", site.file("live"), "--certificate", site.file("site.pem")])
      #expect(try await wrong.ended(within: 60) != .exited(0), "a directory that is not there is an error at the start")
      #expect(wrong.output.contains("certificate directory"))

      let running = try site.place.start("running", certificate: false, ["--certificate", site.file("site.pem")])
      try await site.place.serves(running)
      #expect(try site.client().contains("CN = one.test"))
      // One that began with the first certificate and has its answer at the end, and many new ones.
      let visitor = Visit(site.port, .tlsUnverified, path: "/held")
      try await eventually("it waits", show: running) { site.metric("berth_requests_total 2") }
      let load = SteadyLoad(plain: site.place.plain, tls: site.place.tls, .tlsUnverified)
      // A new certificate: by itself, within seconds.
      try site.certificate("site.pem", name: "two.test")
      try await eventually("the new certificate is shown", within: 60, show: running) {
        try site.client().contains("CN = two.test")
      }
      try await eventually("that is counted", show: running) { site.metric("berth_tls_reloads_total 1") }
      // Half a file: what was in force stays, and everybody is told once.
      try "-----BEGIN CERTIFICATE-----\nnonsense\n".write(
        toFile: site.file("site.pem"), atomically: true, encoding: .utf8)
      try await eventually("the bad file is noticed", within: 60, show: running) {
        site.metric("berth_tls_reload_failures_total 1")
      }
      #expect(site.metric("berth_tls_files_current 0"))
      try await eventually("it is told", show: running) {
        running.output.contains("those in force stay") && running.output.contains("site.pem")
      }
      #expect(try site.client().contains("CN = two.test"))
      // And a good one again, at once.
      try site.certificate("site.pem", name: "three.test")
      running.signal(SIGHUP)
      try await eventually("the third certificate is shown", within: 60, show: running) {
        try site.client().contains("CN = three.test")
      }
      #expect(site.metric("berth_tls_files_current 1"))
      let seen = try await load.stop()
      #expect(seen.failures == [])
      #expect(seen.tls > 0)
      site.place.server.letGo()
      #expect(try await visitor.failure() == nil)
      try await running.stop()
      try site.place.remove()
    }

    @Test(
      "two replicas with one ticket secret resume each other's sessions, until it is replaced",
      arguments: ["-tls1_2", "-tls1_3"])
    func tickets(version: String) async throws {
      let site = try Site()
      try String(repeating: "secret ", count: 6).write(toFile: site.file("secret"), atomically: true, encoding: .utf8)
      let (port, admin, plain) = (try Machine.freePort(), try Machine.freePort(), try Machine.freePort())
      let first = try site.place.start("first", ["--ticket-secret-file", site.file("secret")])
      let second = try site.place.start(
        "second", plain: plain, tls: port, admin: admin, ["--ticket-secret-file", site.file("secret")])
      try await site.place.serves(first)
      try await site.place.serves(second)
      let ticket = site.file("ticket")
      #expect(try site.client([version, "-sess_out", ticket]).contains("\nNew, "))
      #expect(try site.client([version, "-sess_in", ticket], port: port).contains("\nReused, "))
      #expect(try site.client([version, "-sess_in", ticket]).contains("\nReused, "))
      // Replaced: old tickets are no error, only a full handshake.
      try String(repeating: "another ", count: 6).write(toFile: site.file("secret"), atomically: true, encoding: .utf8)
      try await eventually("the old ticket is not taken any more", within: 60, show: first) {
        let seen = try site.client([version, "-sess_in", ticket])
        #expect(seen.contains("200 OK"))
        return seen.contains("\nNew, ")
      }
      try await first.stop()
      try await second.stop()
      try site.place.remove()
    }

    @Test("client certificates, required and optional", arguments: ["-tls1_2", "-tls1_3"])
    func clients(version: String) async throws {
      let site = try Site()
      try site.certificate("robot.pem", name: "robot")
      try site.certificate("stranger.pem", name: "stranger")
      let robot = ["-cert", site.file("robot.pem"), "-key", site.file("robot.pem")]
      let stranger = ["-cert", site.file("stranger.pem"), "-key", site.file("stranger.pem")]
      for (name, isRequired) in [("required", true), ("optional", false)] {
        let replica = try site.place.start(
          name, ["--client-ca", site.file("robot.pem")] + (isRequired ? [] : ["--client-certificate", "optional"]))
        try await site.place.serves(replica)
        #expect(try site.client([version] + robot).contains("200 OK"))
        #expect(try site.client([version]).contains("200 OK") == !isRequired)
        #expect(try !site.client([version] + stranger).contains("200 OK"))
        try await eventually("both are counted", show: replica) {
          site.metric(#"berth_tls_failures_total{reason="client_certificate"} \#(isRequired ? 2 : 1)"#)
        }
        try await replica.stop()
      }
      try site.place.remove()
    }

    @Test("options that make no sense are refused with the flag and the variable that said it")
    func options() async throws {
      let site = try Site()
      try "short".write(toFile: site.file("short"), atomically: true, encoding: .utf8)
      for (number, (words, sentence)) in [
        (["--client-certificate", "optional"], "needs --client-ca"),
        (["--client-certificate", "maybe", "--client-ca", site.place.authority], "must be one of required, optional"),
        (["--tls-minimum-version", "1.1"], "must be one of 1.2, 1.3"), (["--tls-tickets", "9"], "must be from 0 to 8"),
        (["--ticket-secret-file", site.file("short")], "at least 32 are needed"),
        (["--ticket-secret-file", site.file("none")], "No such file"),
        (["--client-ca", site.file("short")], "there is no PEM certificate in it"),
        (["--key", site.file("a"), "--key", site.file("b")], "go together"),
        (["--limit", "handshake-timeout=5"], "with ms, s, m, h or d behind it"),
        (["--limit", "handshake-timeout=9h"], "it must be from 10ms to 1h"),
        (["--proxy-protocol-from", "10.0.0.1/8"], "perhaps 10.0.0.0/8 is meant"),
        (["--trusted-proxies", "proxy.example"], "it must be an address or a block of addresses"),
      ].enumerated() {
        let replica = try site.place.start("wrong-\(number)", words)
        #expect(try await replica.ended(within: 60) != .exited(0), "\(words)")
        #expect(replica.output.contains(sentence), "\(words): \(replica.output)")
      }
      try site.place.remove()
    }
  }
}
