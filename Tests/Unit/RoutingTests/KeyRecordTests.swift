// API keys as records: what is read, what is refused, what a scope opens.
import JSON
import Routing
import Testing

@Suite struct KeyRecordTests {
  private let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

  @Test func aRecordComesBackAsItWasWritten() throws {
    var record = KeyRecord(id: "ci-runner", sha256: digest, scopes: [.session, .admin])
    record.isDeclared = true
    record.createdAt = 5
    record.expiresAt = 9
    #expect(try KeyRecord(id: "ci-runner", json: JSON(parsing: record.json.text)) == record)
    let plain = try KeyRecord(id: "a", json: ["sha256": .string(digest.uppercased())])
    #expect(plain == KeyRecord(id: "a", sha256: digest, scopes: [.session]))
  }

  @Test(arguments: [
    #"{}"#, #"{"sha256":"ba78"}"#, #"{"sha256":"D","scopes":["root"]}"#, #"{"sha256":"D","secret":"x"}"#,
    #"{"sha256":"D","scopes":"session"}"#,
  ])
  func badRecordsAreRefused(_ text: String) throws {
    let json = try JSON(parsing: text.replacing("\"D\"", with: "\"\(digest)\""))
    #expect(throws: RecordError.self) { try KeyRecord(id: "a", json: json) }
  }

  @Test(arguments: ["", "a b", "ä", String(repeating: "x", count: 65)])
  func badNamesAreRefused(_ id: String) {
    #expect(throws: RecordError.self) { try KeyRecord(id: id, json: ["sha256": .string(digest)]) }
  }

  @Test func scopesOpenUntilTheyEnd() {
    var key = KeyRecord(id: "a", sha256: digest, scopes: [.session])
    key.expiresAt = 10
    #expect(key.opens(.session, now: 9))
    #expect(!key.opens(.session, now: 10))
    #expect(!key.opens(.admin, now: 9))
    #expect(KeyRecord(id: "a", sha256: digest, scopes: [.admin]).opens(.session, now: 1))
  }

  @Test func routesSayWhetherTheyNeedOne() throws {
    func route(_ text: String) throws -> RouteRecord { try RouteRecord(id: "r", json: JSON(parsing: text)) }
    #expect(try route(#"{"pool":"web"}"#).auth == nil)
    let closed = try route(#"{"pool":"web","auth":true,"origins":["https://App.example.com","*"]}"#)
    #expect(closed.auth == true)
    #expect(closed.origins == ["https://app.example.com", "*"])
    #expect(try RouteRecord(id: "r", json: closed.json) == closed)
    for bad in ["app.example.com", "https://a/b", "https://", "https://*.example.com"] {
      #expect(throws: RecordError.self) { try route(#"{"pool":"web","origins":["\#(bad)"]}"#) }
    }
  }
}
