// Every row of docs/http.md, seen from both sides of a real engine: what it says is done, what it says is counted, and
// no row without a test or test without a row.
import Engine
import ProxyMachine
import TestSupport
import Testing

@Suite struct HTTPPolicyTests {
  static let rows =
    PolicyRow.requestLines + PolicyRow.fields + PolicyRow.requestBodies + PolicyRow.upgrades + PolicyRow.answers
    + PolicyRow.answerBodies + PolicyRow.connections + PolicyRow.waits

  @Test(arguments: rows) func holds(_ row: PolicyRow) throws {
    var setup = PolicySetup()
    row.setup(&setup)
    let world = try PolicyWorld(setup)
    try row.run(world)
    let engine = world.engine
    switch row.counted {
    case .nothing: break
    case .close(let reason):
      #expect(
        eventually { engine.value(reason) > 0 }, "\(CloseReason.allCases.filter { engine.value($0) > 0 }) is counted")
    case .counter(let counter, _): #expect(eventually { engine.value(counter) > 0 })
    }
    engine.drain()
    // Whatever happened: every connection that was accepted has ended with one reason.
    #expect(CloseReason.allCases.reduce(0) { $0 + engine.value($1) } == engine.value(Counter.accepted))
  }

  private func documentRows() throws -> [[String]] {
    let root = String(#filePath).split(separator: "/").dropLast(4).map { "/" + $0 }.joined()
    let text = try #require(readFile(root + "/docs/http.md"))
    return text.split(separator: "\n").filter { $0.hasPrefix("| `") }.map { line in
      line.split(separator: "|").map { $0.trimmed }
    }
  }

  @Test func everyRowHasATestAndEveryTestARow() throws {
    let documented = try documentRows()
    #expect(documented.allSatisfy { $0.count == 5 }, "\(documented.filter { $0.count != 5 })")
    let ids = documented.map { $0[0].filter { $0 != "`" } }
    #expect(Set(ids).count == ids.count, "an id stands for one row")
    #expect(Set(Self.rows.map(\.id)).count == Self.rows.count)
    #expect(Set(ids).subtracting(Self.rows.map(\.id)) == [], "rows without a test")
    #expect(Set(Self.rows.map(\.id)).subtracting(ids) == [], "tests without a row")
  }

  @Test func theDocumentSaysWhatIsTested() throws {
    for row in try documentRows() where row.count == 5 {
      let id = row[0].filter { $0 != "`" }
      guard let test = Self.rows.first(where: { $0.id == id }) else { continue }
      #expect(row[3] == test.counted.cell, "\(id) is counted as")
      if let status = test.status { #expect(row[2].contains("\(status)"), "\(id)'s status is \(status)") }
      #expect(row[4].contains("§") || row[4] == "–", "\(id) names its section")
    }
  }
}

extension Substring {
  fileprivate var trimmed: String {
    var text = self
    while text.first == " " { text.removeFirst() }
    while text.last == " " { text.removeLast() }
    return String(text)
  }
}
