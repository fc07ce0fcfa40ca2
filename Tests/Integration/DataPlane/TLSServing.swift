// What the tests of TLS capabilities share: one connection served to a program, the `openssl s_client` command, and
// certificates of every kind, signed by an authority that the test makes.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

/// What became of a connection, as the server saw it.
struct TLSServed: Sendable {
  var version = ""
  var resumed = false
  var failure: String?
  var client: TLSClientCertificate?
  init(failure: String) { self.failure = failure }
  init(_ driver: TLSServerDriver) {
    version = driver.connection.version
    resumed = driver.connection.resumed
    client = driver.client
  }
}

/// Serves one connection until the peer ends; with an answer, until the first line came.
func tlsServe(_ context: TLSServerContext, _ listener: Int32, answer: [UInt8] = []) -> TLSPeerThread<TLSServed> {
  TLSPeerThread {
    let driver = try TLSServerDriver(context, tlsAccept(listener))
    do { try driver.handshake() } catch { return TLSServed(failure: "\(error)") }
    var got: [UInt8] = []
    var input: [UInt8] = []
    while true {
      let result = try driver.readOnce(input)
      switch result {
      case .plain(let bytes):
        got += bytes
        input = []
        guard got.last == UInt8(ascii: "\n"), !answer.isEmpty else { continue }
        try driver.write(answer)
        _ = try driver.turn { $0.shutdown($1) }
        return TLSServed(driver)
      case .wantRead:
        input = try driver.receive(65_536)
        if input.isEmpty { return TLSServed(driver) }
      case .closed:
        _ = try driver.turn { $0.shutdown($1) }
        return TLSServed(driver)
      case .failed(let failure): return TLSServed(failure: failure.reason)
      }
    }
  }
}

/// `openssl s_client` ends on a line that starts with Q; with `-ign_eof` it stays until the server ends.
func tlsClient(_ port: Int, _ more: [String], name: String? = "localhost", input: String = "Q\n") throws -> (
  status: Int32, output: String
) {
  let server = name.map { ["-servername", $0] } ?? ["-noservername"]
  return try openssl(["s_client", "-connect", "127.0.0.1:\(port)"] + server + more, input: input)
}

/// One connection of `openssl s_client` to this context; what both ends saw.
func tlsExchange(_ context: TLSServerContext, _ more: [String] = [], name: String? = "localhost") throws -> (
  server: TLSServed, output: String
) {
  let (listener, port) = try tlsListener()
  defer { close(listener) }
  let server = tlsServe(context, listener)
  let seen = try tlsClient(port, more, name: name)
  return (try server.value(), seen.output)
}

/// A connection that waits for the server's answer, so that the client has its ticket, which goes to or comes from a file.
func tlsResume(
  _ context: TLSServerContext, from: String? = nil, to: String? = nil, _ more: [String] = [], name: String = "localhost"
) throws -> Bool {
  let (listener, port) = try tlsListener()
  defer { close(listener) }
  let server = tlsServe(context, listener, answer: [1])
  let files = (from.map { ["-sess_in", $0] } ?? []) + (to.map { ["-sess_out", $0] } ?? [])
  let seen = try tlsClient(port, files + ["-ign_eof"] + more, name: name, input: "hello\n")
  guard seen.output.contains("CONNECTED") else { throw TLSTestFailure(seen.output) }
  let served = try server.value()
  if let failure = served.failure { throw TLSTestFailure(failure) }
  return served.resumed
}

enum TLSKeyKind: String {
  case ecdsa, rsa
  var arguments: [String] {
    self == .ecdsa ? ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"] : ["-newkey", "rsa:2048"]
  }
}

extension TLSFolder {
  /// An authority: `<name>.pem` and `<name>.key`.
  func authority(_ name: String = "ca") throws {
    let made = try openssl(
      ["req", "-x509", "-nodes", "-days", "30", "-subj", "/O=Berth tests/CN=\(name)", "-keyout", file("\(name).key")]
        + ["-out", file("\(name).pem"), "-addext", "keyUsage=critical,keyCertSign,cRLSign"] + TLSKeyKind.ecdsa.arguments
    )
    guard made.status == 0 else { throw TLSTestFailure(made.output) }
  }

  /// A certificate that an authority of this folder signs: `<file>.pem` and `<file>.key`.
  @discardableResult
  func signed(
    _ file: String, names: [String], kind: TLSKeyKind = .ecdsa, by authority: String = "ca", subject: String? = nil,
    serial: Int = Int.random(in: 1...1_000_000), days: Int = 20
  ) throws -> TLSFiles.Pair {
    let request = self.file("\(file).csr")
    let subject = subject ?? "/CN=\(file)"
    var made = try openssl(
      ["req", "-utf8", "-nodes", "-subj", subject, "-keyout", self.file("\(file).key"), "-out", request]
        + kind.arguments)
    guard made.status == 0 else { throw TLSTestFailure(made.output) }
    let extensions = self.file("\(file).ext")
    var text = "extendedKeyUsage=serverAuth,clientAuth\n"
    if !names.isEmpty { text += "subjectAltName=" + names.map { "DNS:\($0)" }.joined(separator: ",") + "\n" }
    try text.write(toFile: extensions, atomically: true, encoding: .utf8)
    made = try openssl(
      ["x509", "-req", "-in", request, "-CA", self.file("\(authority).pem"), "-CAkey", self.file("\(authority).key")]
        + [
          "-set_serial", String(serial), "-days", String(days), "-extfile", extensions, "-out",
          self.file("\(file).pem"),
        ])
    guard made.status == 0 else { throw TLSTestFailure(made.output) }
    try FileManager.default.removeItem(atPath: request)
    try FileManager.default.removeItem(atPath: extensions)
    return TLSFiles.Pair(certificate: self.file("\(file).pem"), key: self.file("\(file).key"))
  }

  func write(_ text: String, _ name: String) throws {
    try text.write(toFile: file(name), atomically: true, encoding: .utf8)
  }
  func read(_ name: String) throws -> String { try String(contentsOfFile: file(name), encoding: .utf8) }
}

extension TLSFiles {
  init(_ pairs: [Pair]) {
    self.init()
    self.pairs = pairs
  }
  func context() throws -> TLSServerContext { try context(processSecret: .random()) }
}

/// The common name of the certificate that a client got.
func tlsSubject(_ output: String) -> String? {
  output.split(separator: "\n").first { $0.hasPrefix("subject=") }
    .flatMap { $0.split(separator: "CN = ").last.map(String.init) }
}
