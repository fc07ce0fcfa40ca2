// What a pool lets its clients ask of their browsers. Settings fills it, REST refuses what it does not allow, and the
// reconciler keeps the number of such browsers within it.
package import Routing

package struct LaunchPolicy: Sendable, Equatable {
  /// Arguments that clients may give: whole ones, or with `=*` at the end for any value.
  package var arguments: [String]
  /// The directory of the profiles that clients may start with; nil = none.
  package var snapshots: String?
  /// How many instances with options may exist at once; nil = half of the pool's, 0 = none.
  package var instances: Int?

  package init(arguments: [String] = [], snapshots: String? = nil, instances: Int? = nil) {
    self.arguments = arguments
    self.snapshots = snapshots
    self.instances = instances
  }

  /// What Berth itself depends on, or what runs programs and writes files of the client's choice: no pool may leave these
  /// to clients. An operator can still give them to all of a pool's browsers.
  package static let reserved = [
    "--remote-debugging-port", "--remote-debugging-pipe", "--remote-debugging-address", "--remote-allow-origins",
    "--user-data-dir", "--headless", "--renderer-cmd-prefix", "--utility-cmd-prefix", "--zygote-cmd-prefix",
    "--gpu-launcher", "--browser-subprocess-path", "--disk-cache-dir", "--crash-dumps-dir", "--log-file",
    "--load-extension", "--no-sandbox", "--disable-setuid-sandbox", "--type",
  ]

  /// Why the list of arguments cannot have this entry; nil when it can.
  package static func objection(to entry: String) -> String? {
    let name = entry.prefix { $0 != "=" }
    guard name.hasPrefix("--"), name.utf8.count > 2, !name.contains("*"), !name.contains(" ") else {
      return "must be an argument like --mute-audio or --force-device-scale-factor=*"
    }
    return reserved.contains(String(name)) ? "cannot be left to clients" : nil
  }

  /// Whether clients may give this argument.
  package func allows(_ argument: String) -> Bool {
    arguments.contains { entry in
      guard entry.hasSuffix("=*") else { return entry == argument }
      return argument.hasPrefix(entry.dropLast())
    }
  }
}

extension PoolSpec {
  /// How many instances of the pool may be launched for one session each; 0 = clients cannot ask for that.
  package var tailoredLimit: Int {
    guard whyNotTailored == nil else { return 0 }
    return launches.instances.map { Swift.min($0, max) } ?? (max + 1) / 2
  }

  /// Why clients cannot have options at all; nil when they can.
  private var whyNotTailored: String? {
    if kind != .cdp { return "its instances are no Chromes" }
    if slots != 1 { return "its instances are shared" }
    switch runtime {
    case .process, .container, .service: break
    default: return "its instances are not launched by Berth with arguments"
    }
    if launches.instances == 0 { return "its launchOptions.instances is 0" }
    return nil
  }

  /// Why a client cannot have a browser like that, as a sentence; nil when it can.
  package func refusal(of options: LaunchOptions) -> String? {
    if let whyNotTailored { return "pool \"\(name)\" takes no launch options: \(whyNotTailored)" }
    if let argument = options.arguments.first(where: { !launches.allows($0) }) {
      let known = launches.arguments.isEmpty ? "none" : launches.arguments.joined(separator: ", ")
      return "\"launch.args\": pool \"\(name)\" does not allow \"\(argument)\"; allowed: \(known)"
    }
    if options.snapshot != nil, launches.snapshots == nil {
      return "\"launch.snapshot\": pool \"\(name)\" has no snapshots"
    }
    return nil
  }
}
