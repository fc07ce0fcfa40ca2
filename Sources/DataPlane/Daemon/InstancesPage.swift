// /instances: the instances of the routing table as this replica sees them: what the table says, what its workers counted,
// and what their balancers make of it. In the order of ids, a bounded number at a time.
import Engine
import JSON
import Posix
import Routing

struct InstancesPage {
  let table: RoutingTable
  let labels: LabeledMetrics
  let workers: Int
  let now: Int

  /// At most so many at a time; `after` goes on behind the last one.
  static let most = 1_000

  /// What the query asks for: `pool=NAME`, `after=ID`, `limit=N`.
  struct Question {
    var pool: String?
    var after: String?
    var limit = InstancesPage.most

    /// nil: not understood.
    init?(_ query: String) {
      for field in query.drop(while: { $0 == "?" }).split(separator: "&") {
        let parts = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else { return nil }
        switch parts[0] {
        case "pool": pool = Self.decoded(parts[1])
        case "after": after = Self.decoded(parts[1])
        case "limit":
          guard let number = Int(parts[1]), (1...InstancesPage.most).contains(number) else { return nil }
          limit = number
        default: return nil
        }
      }
    }

    /// RFC 3986 §2: every byte but the unreserved ones as `%` and two hexadecimal digits.
    static func encoded(_ text: String) -> String {
      let digits = Array("0123456789ABCDEF".utf8)
      var bytes: [UInt8] = []
      for byte in text.utf8 {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x5F, 0x7E: bytes.append(byte)
        default: bytes += [0x25, digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
      }
      return String(decoding: bytes, as: UTF8.self)
    }

    static func decoded(_ text: Substring) -> String {
      var bytes: [UInt8] = []
      var rest = Array(text.utf8)[...]
      while let byte = rest.popFirst() {
        if byte == 0x25, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) {
          bytes.append(value)
          rest = rest.dropFirst(2)
        } else {
          bytes.append(byte)
        }
      }
      return String(decoding: bytes, as: UTF8.self)
    }
  }

  func json(_ question: Question) -> JSON {
    var matching = table.instances
    if let pool = question.pool { matching.removeAll { $0.pool != pool } }
    let total = matching.count
    if let after = question.after { matching.removeAll { $0.id <= after } }
    let shown = matching.prefix(question.limit)
    var rows: [LabelRow: LabeledMetrics.Row] = [:]
    for row in labels.rows(.instance) where row.row != 0 { rows[row.row] = row }
    var answer: JSONObject = [
      "total": .int(total), "instances": .array(shown.map { json($0, rows) }),
    ]
    if shown.count < matching.count, let last = shown.last {
      let pool = question.pool.map { "pool=\(Question.encoded($0))&" } ?? ""
      answer["next"] = .string("/instances?\(pool)after=\(Question.encoded(last.id))&limit=\(question.limit)")
    }
    return .object(answer)
  }

  private func json(_ instance: InstanceRecord, _ rows: [LabelRow: LabeledMetrics.Row]) -> JSON {
    var fields: JSONObject = [
      "id": .string(instance.id), "pool": .string(instance.pool),
      "address": .string(instance.port == 0 ? instance.host : "\(instance.host):\(instance.port)"),
      "state": .string(instance.state.rawValue),
      "weight": .int(instance.weight),
      "generation": .int(instance.generation),
    ]
    // Those beyond the bound of labelled counters have no figures of their own.
    guard let place = labels.row(instance: instance.id, pool: instance.pool), let row = rows[place] else {
      return .object(fields)
    }
    fields["active"] = .int(row[InstanceCounter.activeNow])
    fields["requests"] = .int(row[InstanceCounter.requests])
    fields["kept_connections"] = .int(sum(.keptConnectionsNow, place))
    let classes: [(InstanceCounter, String)] = [
      (.responses1xx, "1xx"), (.responses2xx, "2xx"), (.responses3xx, "3xx"), (.responses4xx, "4xx"),
      (.responses5xx, "5xx"),
    ]
    var responses = JSONObject()
    for (counter, name) in classes { responses[name] = .int(row[counter]) }
    fields["responses"] = .object(responses)
    var failures = JSONObject()
    for (counter, name) in LabeledPage.failures { failures[name] = .int(row[counter]) }
    fields["failures"] = .object(failures)
    fields["bytes_from_clients"] = .int(row[InstanceCounter.bytesFromClients])
    fields["bytes_to_clients"] = .int(row[InstanceCounter.bytesToClients])
    fields["ejections"] = .int(row[.ejections])
    // Each worker decides for itself.
    fields["workers"] = .array(
      (0..<workers).map { worker in
        let labels = labels.workers[worker]
        let until = Int(labels.value(.ejectedUntilNow, instance: place))
        return [
          "active": .int(Int(labels.value(InstanceCounter.activeNow, instance: place))),
          "ejected_for_ms": .int(max(0, until - now)),
          "weight_thousandths": .int(Int(labels.value(.weightNow, instance: place))),
          "response_us": .int(Int(labels.value(.responseMicrosecondsNow, instance: place))),
        ]
      })
    return .object(fields)
  }

  private func sum(_ counter: InstanceCounter, _ row: LabelRow) -> Int {
    labels.workers.reduce(0) { $0 + Int($1.value(counter, instance: row)) }
  }
}
