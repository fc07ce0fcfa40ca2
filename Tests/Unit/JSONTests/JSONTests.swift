// The JSON codec: what is read comes out again as it was, and what RFC 8259 does not allow is refused with its place.
import JSON
import Testing

@Suite struct JSONTests {
  @Test(arguments: [
    "null", "true", "false", "0", "-0", "1e400", "12345678901234567890", "0.1", "-1.5E-3", "\"\"", "[]", "{}",
    #"{"b":1,"a":[null,true,{"":"x"}],"c":1e2}"#, #""A \"quoted\" \\ line\nnext\ttab""#, "\"äöü 🛥\"",
  ]) func readsAndWritesAsItWas(_ text: String) throws {
    #expect(try JSON(parsing: text).text == text)
  }

  @Test(arguments: [
    (" [ 1 , 2 ] ", "[1,2]"), (#""\u0041\u00e4\ud83d\udee5\/""#, "\"Aä🛥/\""),
    ("\"\\u0000\\u001f\"", #""\u0000\u001f""#),
    ("{\"a\" :\r\n\t1}", #"{"a":1}"#),
  ]) func normalizes(_ text: String, _ expected: String) throws { #expect(try JSON(parsing: text).text == expected) }

  @Test(arguments: [
    ("", 1, 1), (" ", 1, 2), ("nul", 1, 1), ("truex", 1, 5), ("01", 1, 2), ("-", 1, 2), ("1.", 1, 3), ("1e", 1, 3),
    ("+1", 1, 1), (".5", 1, 1), ("[1,]", 1, 4), ("[1", 1, 3), ("{", 1, 2), ("{a:1}", 1, 2), ("{\"a\"}", 1, 5),
    ("{\"a\":1,}", 1, 8), ("{\"a\":1,\n\"a\":2}", 2, 1), ("\"", 1, 1), ("\"a\nb\"", 1, 3), (#""\x""#, 1, 4),
    (#""\ud800""#, 1, 8), (#""\ud800\u0041""#, 1, 14), (#""\udc00""#, 1, 8), (#""\u12g4""#, 1, 6), ("1 2", 1, 3),
    ("NaN", 1, 1),
  ]) func refusesWithItsPlace(_ text: String, _ line: Int, _ column: Int) {
    #expect {
      try JSON(parsing: text)
    } throws: { error in
      let fault = error as? JSONError
      return fault?.line == line && fault?.column == column && fault?.message.isEmpty == false
    }
  }

  @Test func refusesInvalidUTF8() {
    #expect(throws: JSONError.self) { try JSON(parsing: [0x22, 0xFF, 0x22]) }
    #expect(throws: JSONError.self) { try JSON(parsing: [0x22, 0xC0, 0x80, 0x22]) }
  }

  @Test func depthIsBounded() throws {
    func nested(_ depth: Int) -> String { String(repeating: "[", count: depth) + String(repeating: "]", count: depth) }
    #expect(throws: Never.self) { try JSON(parsing: nested(JSON.maximumDepth)) }
    #expect(throws: JSONError.self) { try JSON(parsing: nested(JSON.maximumDepth + 1)) }
    #expect(throws: JSONError.self) { try JSON(parsing: nested(1_000_000)) }
  }

  @Test func numbersAreReadOnDemand() throws {
    #expect(try JSON(parsing: "1e3").int == 1000)
    #expect(try JSON(parsing: "1.5").int == nil)
    #expect(try JSON(parsing: "1.5").double == 1.5)
    #expect(try JSON(parsing: "99999999999999999999").int == nil)
    #expect(try JSON(parsing: "\"1\"").int == nil)
  }

  @Test func fieldsAreReplacedInPlace() {
    var object: JSONObject = ["a": 1, "b": 2]
    object["a"] = 3
    object["c"] = 4
    object["b"] = nil
    #expect(JSON.object(object).text == #"{"a":3,"c":4}"#)
  }
}
