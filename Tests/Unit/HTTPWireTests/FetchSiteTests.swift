// What a browser says of the page behind a request without Origin.
import HTTPWire
import Testing

@Suite struct FetchSiteTests {
  private func parsed<R>(_ fields: String, _ read: (borrowing Head, Span<UInt8>) -> R) -> R {
    let bytes = Array("GET /json/version HTTP/1.1\r\nHost: a.test\r\n\(fields)\r\n".utf8)
    var head = Head()
    #expect(HeadParser(limits: HTTPLimits()).parse(.request, bytes.span, into: &head) == .complete)
    return read(head, bytes.span)
  }

  @Test(arguments: [
    ("", false), ("Sec-Fetch-Site: none\r\n", false), ("Sec-Fetch-Site: same-origin\r\n", false),
    ("Sec-Fetch-Site: cross-site\r\n", true), ("sec-fetch-site:same-site\r\n", true),
    ("SEC-FETCH-SITE: Cross-Site \r\n", true), ("Sec-Fetch-Site: cross-sites\r\n", false),
    ("Sec-Fetch-Site:\r\n", false), ("Sec-Fetch-Mode: cross-site\r\n", false),
    // Two of them: whichever says it.
    ("Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n", true),
    ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document\r\n", false),
    ("Sec-Fetch-Dest: Document\r\nSec-Fetch-Site: cross-site\r\n", false),
    ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: iframe\r\n", true),
  ])
  func otherOriginsAreSeen(_ fields: String, _ isOther: Bool) {
    #expect(parsed(fields) { head, bytes in head.comesFromAnotherOrigin(bytes) } == isOther)
  }

  @Test(arguments: [
    ("", nil), ("Referer: https://app.example.com/\r\n", "https://app.example.com"),
    ("Referer: https://app.example.com/a/b?c=https://b.test/\r\n", "https://app.example.com"),
    ("referer: http://127.0.0.1:9000\r\n", "http://127.0.0.1:9000"), ("Referer: about:blank\r\n", nil),
    ("Referer:\r\n", nil), ("Referer: /a\r\n", nil), ("Referer: //\r\n", "//"),
  ])
  func theRefererNamesAnOrigin(_ fields: String, _ origin: String?) {
    let found = parsed(fields) { head, bytes in
      head.refererOrigin(bytes).map { slice in
        (slice.lower..<slice.upper).map { String(UnicodeScalar(bytes[$0])) }.joined()
      }
    }
    #expect(found == origin)
  }
}
