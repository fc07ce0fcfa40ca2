// Where a request carries a key, and what is left of its target without it.
import HTTPWire
import Testing

@Suite struct CredentialsTests {
  private func parsed<R>(_ target: String, _ fields: String = "", _ read: (borrowing Head, Span<UInt8>) -> R) -> R {
    let bytes = Array("GET \(target) HTTP/1.1\r\nHost: a.test:80\r\n\(fields)\r\n".utf8)
    var head = Head()
    #expect(HeadParser(limits: HTTPLimits()).parse(.request, bytes.span, into: &head) == .complete)
    return read(head, bytes.span)
  }

  private func authorization(_ value: String, capacity: Int = 64) -> String {
    parsed("/", "Authorization: \(value)\r\n") { head, bytes in
      var scratch = [UInt8](repeating: 0, count: capacity)
      var output = scratch.mutableSpan
      let count = head.authorizationKey(bytes, into: &output)
      return String(decoding: scratch.prefix(count), as: UTF8.self)
    }
  }

  @Test(arguments: [
    ("Bearer abc", "abc"), ("bearer   abc", "abc"), ("BEARER a.b-c_d~e+f/g=", "a.b-c_d~e+f/g="), ("Bearer", ""),
    ("Digest abc", ""), ("Bearerabc", ""),
    // user:password, user:, :password, without a colon
    ("Basic dXNlcjpwYXNzd29yZA==", "user"), ("basic dXNlcjo=", "user"), ("Basic dXNlcjo", "user"),
    ("Basic OnBhc3N3b3Jk", "password"), ("Basic dXNlcg==", ""), ("Basic Og==", ""), ("Basic ?", ""), ("Basic =", ""),
  ])
  func authorizationIsRead(_ value: String, _ key: String) {
    #expect(authorization(value) == key)
  }

  @Test func whatDoesNotFitIsNoKey() {
    #expect(authorization("Bearer " + String(repeating: "x", count: 64)).utf8.count == 64)
    #expect(authorization("Bearer " + String(repeating: "x", count: 65)) == "")
    #expect(authorization("Basic " + String(repeating: "QUFB", count: 30)) == "")
  }

  @Test(arguments: [
    ("/p?token=abc", "abc", "/p"), ("/p?a=1&token=abc", "abc", "/p?a=1"), ("/p?token=abc&b=2", "abc", "/p?b=2"),
    ("/p?a=1&token=abc&b=2", "abc", "/p?a=1&b=2"), ("/p?a=1", "", "/p?a=1"), ("/p", "", "/p"),
    ("/p?atoken=abc", "", "/p?atoken=abc"), ("/p?Token=abc", "", "/p?Token=abc"), ("/p?token=", "", "/p"),
    ("/p?token=a%2Db%2", "a-b%2", "/p"), ("/p?token=abc&", "abc", "/p?"), ("/p?&token=abc", "abc", "/p?"),
    ("/p?token=abc&token=def", "abc", "/p?token=def"), ("/p?token", "", "/p?token"),
  ])
  func tokensAreReadAndLeftOut(_ target: String, _ key: String, _ rest: String) {
    let (read, left) = parsed(target) { head, bytes in
      var scratch = [UInt8](repeating: 0, count: 64)
      var output = scratch.mutableSpan
      let count = head.tokenKey(bytes, into: &output)
      var changes = RequestChanges()
      changes.gap = head.tokenGap(bytes)
      changes.dropsAuthorization = true
      var written = [UInt8](repeating: 0, count: 512)
      var out = written.mutableSpan
      let bytes = head.writeRequest(bytes, changes: changes, target: Span(), host: Span(), into: &out) ?? 0
      let line = String(decoding: written.prefix(bytes), as: UTF8.self).split(separator: " ")[1]
      return (String(decoding: scratch.prefix(count), as: UTF8.self), String(line))
    }
    #expect(read == key)
    #expect(left == rest)
  }

  @Test(arguments: [
    ("http://a.test:80", true), ("https://A.TEST:80", true), ("http://a.test", false), ("http://b.a.test:80", false),
    ("http://a.test:8080", false), ("null", false), ("a.test:80", false), ("http://", false), ("://a.test:80", true),
  ])
  func originsAreCompared(_ origin: String, _ isOwn: Bool) {
    let own = parsed("/", "Origin: \(origin)\r\n") { head, bytes in head.originIsOwn(bytes, head.value(of: .origin)!) }
    #expect(own == isOwn)
  }

  @Test(arguments: [
    ("127.0.0.1", true), ("127.0.0.1:80", true), ("[::1]:80", true), ("localhost", true), ("LocalHost:80", true),
    ("a.localhost", true), ("alocalhost", false), ("localhost.evil.test", false), ("1.2.3.evil", false),
    ("a.test", false), ("1.2.3", false),
  ])
  func addressesAreToldFromNames(_ host: String, _ isAddress: Bool) {
    let bytes = Array("GET / HTTP/1.1\r\nHost: \(host)\r\n\r\n".utf8)
    var head = Head()
    #expect(HeadParser(limits: HTTPLimits()).parse(.request, bytes.span, into: &head) == .complete)
    #expect(head.namesHostByAddress(bytes.span) == isAddress)
  }
}
