// What a browser says of the page behind a request that has no Origin: a plain GET of an image or a frame. Called
// by the engine for DevTools and session routes only, so the parser does not know these names.

extension Head {
  /// Whether a browser says that a page of another site or origin asks (Fetch Metadata §2.4, `Sec-Fetch-Site`). No page
  /// can set or leave out the field (Fetch, forbidden request-headers). `same-origin`, `none` (an address that somebody
  /// typed), words that are unknown and requests without it, as programs send them, are no such thing; nor is a link that
  /// fills the tab (§2.1, `Sec-Fetch-Dest: document`): whoever follows one sees where it leads, and each is one request.
  package borrowing func comesFromAnotherOrigin(_ bytes: Span<UInt8>) -> Bool {
    let fields = fields.span
    var isForeign = false
    var fillsTab = false
    for index in 0..<fieldCount where fields[index].known == .other {
      let (name, value) = (fields[index].name, fields[index].value)
      if bytes.equals(name, "sec-fetch-site") {
        if bytes.equals(value, "cross-site") || bytes.equals(value, "same-site") { isForeign = true }
      } else if bytes.equals(name, "sec-fetch-dest") {
        fillsTab = bytes.equals(value, "document")
      }
    }
    return isForeign && !fillsTab
  }

  /// The origin of the page that a Referer names (RFC 9110 §10.1.3): what stands before its path. A page may leave the
  /// field out, and cannot name another origin in it (Referrer Policy).
  package borrowing func refererOrigin(_ bytes: Span<UInt8>) -> Slice? {
    let fields = fields.span
    for index in 0..<fieldCount where fields[index].known == .other {
      guard bytes.equals(fields[index].name, "referer") else { continue }
      let value = fields[index].value
      var end = value.lower
      var slashes = 0
      while end < value.upper {
        if bytes[end] == UInt8(ascii: "/") { slashes += 1 }
        if slashes == 3 { break }
        end += 1
      }
      return slashes >= 2 ? Slice(value.lower, end - value.lower) : nil
    }
    return nil
  }
}
