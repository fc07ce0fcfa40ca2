// The file of API keys: its lines, and what is said about wrong ones without repeating a key.
import Routing
import Settings
import Testing

@Suite struct KeysFileTests {
  private let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

  @Test func linesBecomeRecords() throws {
    let text = """
      # people
      ops   admin,session   abcdefghijklmnop

      ci\tsession\tsha256:\(digest)\r
      """
    let records = try KeysFile.parse(text, name: "keys")
    #expect(records.map(\.id) == ["ops", "ci"])
    #expect(records.map(\.scopes) == [[.admin, .session], [.session]])
    // sha256sum's answer for abcdefghijklmnop
    #expect(records[0].sha256 == "f39dac6cbaba535e2c207cd0cd8f154974223c848f727f98b3564cea569b41cf")
    #expect(records[1].sha256 == digest)
    #expect(records.map(\.isDeclared) == [true, true])
  }

  @Test(arguments: [
    ("", "keys: has no key, so nobody could use anything"), ("# none", "keys: has no key"),
    ("a session", "keys:1: a line has a name, scopes (session, admin) and a key"),
    ("a b/c session secret-secret-secret", "keys:1: a line has a name"),
    ("a/b session secret-secret-secret", "keys:1: a key is named with"),
    ("\na root secret-secret-secret", "keys:2: scopes are session and admin"),
    ("a session secret", "keys:1: a key has 16 to 256 bytes"),
    ("a session sha256:secret", "keys:1: after sha256: come"),
    ("a session secret-secret-secret\na session other-other-other-1", "keys:2: there is a key a already"),
    ("a session secret-secret-secret\nb session secret-secret-secret", "keys:2: b is the same key as a"),
  ])
  func wrongLinesAreNamed(_ text: String, _ message: String) {
    let error = #expect(throws: SettingsError.self) { try KeysFile.parse(text, name: "keys") }
    #expect(error?.description.hasPrefix(message) == true, "\(error?.description ?? "")")
    #expect(error?.description.contains("secret") != true)
  }

  @Test func aChangeCountsWhenItHasStoodForOneLook() {
    var watch = KeysFileWatch([1])
    func looks(_ contents: [UInt8]?...) -> [Bool] { contents.map { watch.look($0) } }
    #expect(looks([1]) == [false])
    #expect(looks([2], [2], [2]) == [false, true, false])
    // Written in pieces: only the last one counts.
    #expect(looks([], [3], [3]) == [false, false, true])
    // It is gone, is missed once, and comes back as it was.
    #expect(looks(nil, nil, nil) == [false, true, false])
    #expect(looks([3], [3]) == [false, true])
    // There and back between two looks is no change.
    #expect(looks([4], [3], [3]) == [false, false, false])
  }

  @Test func aKeysFileClosesTheRoutes() throws {
    func load(_ text: String, _ flags: [String: String] = [:]) throws -> ControlSettings {
      try ControlSettings.load(file: ConfigText(name: "berth.yaml", text: text), environment: [:], flags: flags)
    }
    let closed = try load("keysFile: /k\nlisten: 0.0.0.0:3000")
    #expect(closed.requireKeys)
    #expect(closed.routes.map(\.auth) == [true])
    let mixed = try load(
      """
      pools: {web: {kind: http, slots: 0, command: server}}
      routes: {open: {path: /open, pool: web, auth: false}, all: {pool: web}}
      """, ["--keys-file": "/k"])
    #expect(Set(mixed.routes.map { "\($0.id) \($0.auth == true)" }) == ["open false", "all true"])
    let off = try load("keysFile: /k\nrequireKeys: false")
    #expect(off.routes.map(\.auth) == [nil])
  }
}
