// What is fuzzed, and what must hold for every input. A corpus entry's first byte chooses the body, the rest is its
// input. Called by libFuzzer (scripts/fuzz), by the mutator for toolchains without it, and by the replay in the tests.

import HTTPWire

/// Something that must hold does not.
package struct FuzzFailure: Error, CustomStringConvertible {
  package let description: String
}

package enum FuzzBody: UInt8, CaseIterable, Sendable {
  case request = 0x71  // q
  case response = 0x72  // r
  case chunked = 0x63  // c
  case proxy = 0x70  // p
  case exchange = 0x78  // x

  /// Runs the body that the first byte names; other first bytes mean nothing.
  package static func run(_ entry: [UInt8]) throws(FuzzFailure) {
    guard let first = entry.first, let body = FuzzBody(rawValue: first) else { return }
    let input = Array(entry.dropFirst())
    switch body {
    case .request: try fuzzHead(.request, input)
    case .response: try fuzzHead(.response, input)
    case .chunked: try fuzzChunked(input)
    case .proxy: try fuzzProxy(input)
    case .exchange: try fuzzExchange(input)
    }
  }
}

func check(_ holds: Bool, _ sentence: @autoclosure () -> String) throws(FuzzFailure) {
  if !holds { throw FuzzFailure(description: sentence()) }
}

/// Bytes as a reader of a failure can use them.
func shown(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self).debugDescription }

/// Where to cut an input of this length: everywhere when it is short, else at some points.
func cuts(_ count: Int) -> [Int] {
  if count <= 200 { return Array(0..<count) }
  return Array(0..<40) + stride(from: 41, to: count - 40, by: max(1, count / 60)) + (count - 40..<count)
}
