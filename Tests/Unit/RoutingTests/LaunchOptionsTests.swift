// What a client may write of its browser's launch, and what a Chrome is told of it.
import JSON
import Routing
import Testing

@Suite struct LaunchOptionsTests {
  private func read(_ text: String) throws -> LaunchOptions {
    var fields = try Fields(JSON(parsing: text), of: "launch")
    return try LaunchOptions(&fields)
  }
  private static let all = #"""
    {"args": ["--mute-audio", "--x={id}"], "viewport": {"width": 1280, "height": 720}, "userAgent": "Me/1 (x)",
     "proxy": "socks5://[::1]:1080", "locale": "de-CH", "timeZone": "America/Argentina/Buenos_Aires", "snapshot": "shop-1"}
    """#

  @Test func everythingCanBeSaidAndSurvivesItsJSON() throws {
    let options = try read(Self.all)
    #expect(!options.isEmpty && options.viewport == LaunchOptions.Viewport(width: 1_280, height: 720))
    #expect(try read(options.json.text) == options)
    for name in ["args", "viewport", "userAgent", "proxy", "locale", "timeZone", "snapshot"] {
      var object = try #require(options.json.object)
      object[name] = nil
      #expect(try read(JSON.object(object).text) != options, "\(name)")
    }
    #expect(
      options.chromeArguments == [
        "--mute-audio", "--x={id}", "--window-size=1280,720", "--user-agent=Me/1 (x)",
        "--proxy-server=socks5://[::1]:1080", "--lang=de-CH", "--accept-lang=de-CH,de",
      ])
    #expect(options.environment == ["TZ": "America/Argentina/Buenos_Aires", "LANGUAGE": "de_CH"])
  }

  @Test func nothingIsNothing() throws {
    #expect(try read("{}").isEmpty && read(#"{"args":[],"locale":null}"#).isEmpty)
    #expect(try read("{}").chromeArguments == [] && read("{}").environment == [:])
    #expect(try read(#"{"locale":"de"}"#).chromeArguments == ["--lang=de", "--accept-lang=de"])
  }

  @Test(arguments: [
    #"{"headless":true}"#, #"{"args":"--x"}"#, #"{"args":[1]}"#, #"{"args":["a\u0000b"]}"#,
    #"{"viewport":{"width":99,"height":100}}"#, #"{"viewport":{"width":100}}"#, #"{"viewport":"100x100"}"#,
    #"{"viewport":{"width":100,"height":4321}}"#, #"{"viewport":{"width":100,"height":100,"scale":2}}"#,
    #"{"userAgent":""}"#, #"{"userAgent":"a\nb"}"#, #"{"userAgent":"ü"}"#, #"{"proxy":"proxy:3128"}"#,
    #"{"proxy":"http://proxy"}"#, #"{"proxy":"http://:1"}"#, #"{"proxy":"http://u:p@proxy:1"}"#,
    #"{"proxy":"ftp://proxy:1"}"#, #"{"proxy":"http://proxy:65536"}"#, #"{"proxy":"http://proxy:+1"}"#,
    #"{"proxy":"http://a b:1"}"#, #"{"proxy":"http://a;b:1"}"#, #"{"proxy":"http://a:b:1"}"#, #"{"locale":"d"}"#,
    #"{"locale":"de_CH"}"#, #"{"locale":"de-"}"#, #"{"locale":"de,en"}"#, #"{"locale":"12"}"#, #"{"timeZone":""}"#,
    #"{"timeZone":"../etc"}"#, #"{"timeZone":"/Europe"}"#, #"{"timeZone":":Europe/Zurich"}"#,
    #"{"timeZone":"A/B/C/D"}"#,
    #"{"snapshot":"../x"}"#, #"{"snapshot":""}"#, #"{"snapshot":"A"}"#, "[]",
  ])
  func whatIsWrongIsNamed(text: String) {
    #expect(throws: RecordError.self) { try read(text) }
  }

  @Test func theListOfArgumentsIsBounded() throws {
    func list(_ count: Int, _ bytes: Int) -> String {
      #"{"args":["#
        + Array(repeating: "\"\(String(repeating: "x", count: bytes))\"", count: count).joined(separator: ",")
        + "]}"
    }
    _ = try read(list(50, 81))
    #expect(throws: RecordError.self) { try read(list(51, 1)) }
    #expect(throws: RecordError.self) { try read(list(50, 82)) }
  }

  @Test func recordsKeepThem() throws {
    var session = SessionRecord(id: "s", pool: "chrome", origin: .rest, createdAt: 1, expiresAt: 2)
    session.launch = try read(Self.all)
    #expect(try SessionRecord(id: "s", json: session.json) == session)
    var instance = InstanceRecord(id: "i", pool: "chrome", host: "127.0.0.1", port: 1)
    #expect(!instance.json.text.contains("session"))
    instance.session = "s"
    #expect(try InstanceRecord(id: "i", json: instance.json) == instance)
  }
}
