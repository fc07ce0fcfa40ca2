// The clients under test: Python programs below `clients/`, each of which prints one JSON object and exits with 0.
import Foundation
import Glibc
import JSON

enum Client {
  /// Eight clients at once on two cores are slow; the bound is for a client that hangs.
  static let patience = 300.0

  static func playwright(_ words: String..., in deployment: Deployment, trusting ca: String? = nil) async throws -> JSON
  {
    try await run("playwright_client.py", words, in: deployment.directory, trusting: ca)
  }

  static func reconnect(_ words: String..., in deployment: Deployment) async throws -> JSON {
    try await run("reconnect_client.py", words, in: deployment.directory, trusting: nil)
  }

  static func launch(_ words: String..., in deployment: Deployment) async throws -> JSON {
    try await run("launch_client.py", words, in: deployment.directory, trusting: nil)
  }

  static func pyppeteer(_ words: String..., in deployment: Deployment, trusting ca: String? = nil) async throws -> JSON
  {
    try await run("pyppeteer_client.py", words, python: "pyppeteer", in: deployment.directory, trusting: ca)
  }

  static func raw(_ words: String..., in deployment: Deployment, trusting ca: String? = nil) async throws -> JSON {
    try await run("raw_client.py", words + (ca.map { ["--ca", $0] } ?? []), in: deployment.directory, trusting: nil)
  }

  /// Bytes of one's own; see wire_client.py.
  static func wire(_ port: Int, _ text: String, in directory: String) async throws -> JSON {
    try await run("wire_client.py", ["127.0.0.1", String(port), text], in: directory, trusting: nil)
  }

  /// A program that tells named checks (checks.py): those that it has to tell must all have passed.
  static func checks(
    _ script: String, _ words: [String], in directory: String, trusting ca: String? = nil
  ) async throws -> (passed: Set<String>, failed: [String: String]) {
    let told = try await run(script, words, in: directory, trusting: ca)
    let passed = told["passed"]?.array?.compactMap(\.string) ?? []
    guard case .object(let failed) = told["failed"] else { throw Failure("\(script) told nothing of failures") }
    return (Set(passed), failed.fields.reduce(into: [:]) { $0[$1.name] = $1.value.string ?? "" })
  }

  /// A client that goes on working until `finish` is called.
  final class Worker {
    let program: Program
    private let until: String

    init(_ deployment: Deployment, endpoint: String) throws {
      until = deployment.directory + "/work-\(UInt32.random(in: 0...UInt32.max))"
      program = try start("playwright_client.py", [endpoint, "--work", until], in: deployment.directory)
    }

    var rounds: Int { program.lines.count { $0.hasPrefix("round ") } }

    /// Waits until it has done that many more rounds than now; fails when it ended.
    func works(rounds more: Int) async throws {
      let goal = rounds + more
      try await eventually("the script does \(more) more rounds", within: Client.patience, show: program) {
        if let ending = program.poll() { throw Failure("the script \(ending):\n\(program.output)") }
        return rounds >= goal ? () : nil
      }
    }

    func finish() async throws -> JSON {
      try Data().write(to: URL(filePath: until))
      return try await result(of: program)
    }
  }

  // MARK: Running

  private static func start(
    _ script: String, _ words: [String], python: String = "clients", in directory: String, trusting ca: String? = nil
  ) throws -> Program {
    let output = "\(directory)/\(script)-\(UInt32.random(in: 0...UInt32.max)).log"
    // Python's own clients take the file from SSL_CERT_FILE, Playwright's driver is a Node program.
    let trust: [String: String?] = ca.map { ["SSL_CERT_FILE": $0, "NODE_EXTRA_CA_CERTS": $0] } ?? [:]
    return try Program(
      script,
      [try Machine.python(python), Machine.checkout + "/Tests/EndToEnd/clients/" + script] + words,
      outputFile: output, in: directory, environment: trust.merging(["PYTHONUNBUFFERED": "1"]) { old, _ in old })
  }

  private static func run(
    _ script: String, _ words: [String], python: String = "clients", in directory: String, trusting ca: String?
  ) async throws -> JSON {
    try await result(of: start(script, words, python: python, in: directory, trusting: ca))
  }

  private static func result(of program: Program) async throws -> JSON {
    let ending: Ending
    do {
      ending = try await program.ended(within: patience)
    } catch {
      program.signal(SIGKILL)
      throw error
    }
    guard ending == .exited(0) else { throw Failure("\(program.name) \(ending):\n\(program.output)") }
    guard let line = program.lines.last(where: { $0.hasPrefix("{") }), let json = try? JSON(parsing: String(line))
    else {
      throw Failure("\(program.name) printed no JSON object:\n\(program.output)")
    }
    return json
  }
}
