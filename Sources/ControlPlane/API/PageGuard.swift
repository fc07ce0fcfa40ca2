// Whether a request may come from a page in somebody's browser. A page of strangers can send plain POSTs to every address
// that its reader can reach (Fetch §3.1, "simple" requests), and one that has pointed its own name here (DNS rebinding)
// can read the answers too. Pure; the responder asks it before anything else.

package struct PageGuard: Sendable {
  private let asksForKeys: Bool
  private let names: Set<String>

  /// - Parameters:
  ///   - asksForKeys: pages of strangers have no key, so names need no looking at.
  ///   - names: by which this control plane may be asked, besides addresses and names that nobody outside can own.
  package init(asksForKeys: Bool, names: [String]) {
    self.asksForKeys = asksForKeys
    self.names = Set(names.map { $0.lowercased() })
  }

  /// Refuses with 403 what only a page of strangers sends.
  /// - Parameters:
  ///   - authority: the request's Host.
  ///   - origin: its Origin (RFC 6454 §7), nil without one, as programs send it.
  ///   - site: its Sec-Fetch-Site (Fetch Metadata §2.4): images, frames and links of other pages have no Origin.
  package func check(authority: String?, origin: String?, site: String? = nil) throws(Refusal) {
    let authority = (authority ?? "").lowercased()
    let host = Self.host(of: authority)
    if let origin = origin?.lowercased() {
      let own = origin == "http://\(authority)" || origin == "https://\(authority)"
      guard own, asksForKeys || trusts(host) else {
        throw Refusal(403, "pages of \(origin) may not ask this; programs send no Origin (docs/security.md)")
      }
    } else if let site = site?.lowercased(), site == "cross-site" || site == "same-site" {
      throw Refusal(
        403, "other pages may not ask this, not even by a link: open the address by itself (docs/security.md)")
    }
    guard asksForKeys || trusts(host) else {
      throw Refusal(
        403,
        "nobody is asked for a key here, and anybody can point the name \(host) at this address: use the address itself, "
          + "name it in allowedHosts (BERTH_ALLOWED_HOSTS), or set a keysFile (docs/security.md)")
    }
  }

  /// Endings of names that are never anybody's on the Internet (RFC 6761, 6762, 8375; ICANN's reserved .internal).
  private static let privateEndings = [
    ".localhost", ".local", ".internal", ".home.arpa", ".lan", ".localdomain", ".svc", ".test",
  ]

  private func trusts(_ host: String) -> Bool {
    if host.isEmpty || names.contains(host) || host.hasPrefix("[") { return true }
    // A name of one label is resolved by the machine or its own network only.
    if !host.contains(".") { return true }
    let labels = host.split(separator: ".", omittingEmptySubsequences: false)
    if labels.count == 4, labels.allSatisfy({ UInt8($0) != nil }) { return true }
    return Self.privateEndings.contains { host.hasSuffix($0) }
  }

  /// Without its port.
  private static func host(of authority: String) -> String {
    if authority.hasPrefix("[") { return String(authority.prefix { $0 != "]" }) + "]" }
    let host = authority.prefix { $0 != ":" }
    return String(host.hasSuffix(".") ? host.dropLast() : host)
  }

  /// The host of a URL, for ``init(asksForKeys:names:)``.
  package static func host(ofURL url: String) -> String {
    guard let scheme = url.firstRange(of: "://") else { return "" }
    return host(of: String(url[scheme.upperBound...].prefix { $0 != "/" }).lowercased())
  }
}
