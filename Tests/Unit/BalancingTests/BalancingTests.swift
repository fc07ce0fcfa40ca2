import Balancing
import Testing

@Test func placeholder() {}
