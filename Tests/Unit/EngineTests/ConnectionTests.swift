// What an open connection costs in memory: an idle tunnel is little more than two of these.
import Testing

@testable import Engine

@Suite struct ConnectionTests {
  @Test func itStaysSmall() { #expect(MemoryLayout<Connection>.stride <= 440) }
}
