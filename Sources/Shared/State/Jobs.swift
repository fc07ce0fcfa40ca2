// Which instance made a job: Firecrawl's instances do not share their state, and a client may ask any replica about its
// job. Written and read by the coordinators of replicas, for routes with job affinity.
package import Routing

package struct Jobs: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// How long a job is remembered: Firecrawl keeps results for a day.
  package static let lifeMilliseconds = 86_400_000
  package static let longestID = 64

  /// Whether this can be a job's id in a path and in a key's name. Others are not remembered.
  package static func isID(_ text: String) -> Bool {
    (1...longestID).contains(text.utf8.count)
      && text.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "-"), UInt8(ascii: "_"):
          true
        default: false
        }
      }
  }

  /// The job is this instance's from now on.
  package func remember(_ job: String, pool: String, instance: String) -> Command<Void> {
    Command(
      .words(["SET", keys.job(job, pool: pool), instance, "PX", String(Self.lifeMilliseconds)]), mayRepeat: true,
      parse: Read.nothing())
  }

  package func instance(of job: String, pool: String) -> Command<String?> {
    Command(.words(["GET", keys.job(job, pool: pool)]), mayRepeat: true, parse: Read.optionalString("job"))
  }
}
