// docs/routes-files.md: its examples are read as they stand, and it names every field that its forms have of their own.
import Glibc
import RouteFiles
import Testing

@Suite struct RouteFilesDocumentationTests {
  private func documentation() throws -> String {
    let path = String(#filePath).split(separator: "/").dropLast(4).map { "/" + $0 }.joined() + "/docs/routes-files.md"
    let file = try unsafe #require(fopen(path, "r"), "\(path) is missing")
    defer { unsafe fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 1 << 18)
    let count = unsafe fread(&bytes, 1, bytes.count, file)
    return String(decoding: bytes[..<count], as: UTF8.self)
  }

  @Test func everyExampleIsRead() throws {
    let pieces = try documentation().split(separator: "```", omittingEmptySubsequences: false)
    // Every second piece is between fences and begins with its language.
    let examples = stride(from: 1, to: pieces.count, by: 2).map { String(pieces[$0].drop { $0 != "\n" }) }
    #expect(examples.count == 3)
    for example in examples {
      let file = try RouteFile(example, file: "docs/routes-files.md")
      #expect(!file.routes.isEmpty && !file.instances.isEmpty && file.warnings.isEmpty, "\(example)")
    }
  }

  @Test(arguments: [
    "routes: [{path: /, backend: a}]\nbackends: {a: {servers: [{url: http://a}], nonsense: 1}}",
    "routes: [{path: /, servers: [{url: http://a, nonsense: 1}]}]", "health: {nonsense: 1}\npools: {a: {}}",
    "nonsense: {}",
  ]) func everyFieldIsNamed(text: String) throws {
    let complaint = #expect(throws: RouteFileError.self) { try RouteFile(text, file: "f") }
    let known = try #require(complaint?.description.split(separator: "known are ").last).split(separator: ", ")
    let documentation = try documentation()
    for name in known { #expect(documentation.contains("`\(name)`"), "\(name)") }
  }
}
