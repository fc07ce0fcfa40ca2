// The options of a directory in memory that a service can have.
import Domain
import Testing

@Suite struct MemoryMountTests {
  @Test(
    arguments: [
      ("", nil, nil), ("size=512m,mode=1777", 512 << 20, 0o1777), ("size=1G", 1 << 30, nil),
      ("size=64k", 64 << 10, nil),
      ("size=4096", 4_096, nil), ("mode=0700", nil, 0o700),
    ] as [(String, Int?, Int?)])
  func sizeAndModeAreRead(_ text: String, _ size: Int?, _ mode: Int?) throws {
    let mount = try #require(MemoryMount(options: text))
    #expect(mount.sizeBytes == size && mount.mode == mode)
  }

  @Test(arguments: ["noexec", "size=", "size=x", "size=0", "size=1t", "mode=9", "mode=17777", "size=1m,uid=7"])
  func whatElseMountKnowsIsNot(_ text: String) { #expect(MemoryMount(options: text) == nil) }
}
