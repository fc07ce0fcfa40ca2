// Chunked bodies and PROXY headers: the same in pieces as in the whole, and the same as plainer readers say.
import HTTPWire

/// How a chunked body ended, or that it did not.
private enum Ending: Equatable {
  case open, failed
  case after(Int)
}

func fuzzChunked(_ bytes: [UInt8]) throws(FuzzFailure) {
  let whole = scan(bytes, pieces: [bytes.count])
  try check(whole == scan(bytes, pieces: Array(repeating: 1, count: bytes.count)), "another end byte by byte")
  for cut in cuts(bytes.count) {
    try check(whole == scan(bytes, pieces: [cut, bytes.count - cut]), "another end when cut at \(cut)")
  }
  try check(whole == skipping(bytes), "another end when data is skipped")
  let naive = readChunks(bytes)
  try check(whole == naive, "two readers: \(whole) and \(naive)")
}

private func scan(_ bytes: [UInt8], pieces: [Int]) -> Ending {
  var body = ChunkedBody()
  var position = 0
  for count in pieces where count > 0 {
    switch body.scan(bytes.span.extracting(position..<position + count)) {
    case .more: position += count
    case .ended(let taken): return .after(position + taken)
    case .failed: return .failed
    }
  }
  return .open
}

/// As splice(2) does it: data inside a chunk passes unseen.
private func skipping(_ bytes: [UInt8]) -> Ending {
  var body = ChunkedBody()
  var position = 0
  while position < bytes.count {
    let unseen = min(body.dataRemaining, UInt64(bytes.count - position))
    if unseen > 0 {
      body.skip(unseen)
      position += Int(unseen)
      continue
    }
    switch body.scan(bytes.span.extracting(position..<position + 1)) {
    case .more: position += 1
    case .ended(let taken): return .after(position + taken)
    case .failed: return .failed
    }
  }
  return .open
}

private let forbiddenTrailers: Set<String> = [
  "connection", "content-length", "forwarded", "host", "http2-settings", "keep-alive", "proxy-connection", "te",
  "trailer", "transfer-encoding", "upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
]

/// Line by line. A fault is told at its byte, as the scanner does, so an unfinished line is looked at as well.
private func readChunks(_ bytes: [UInt8]) -> Ending {
  var position = 0
  while true {
    guard let (line, isWhole) = nextLine(bytes, position) else { return .failed }
    let digits = line.prefix { "0123456789abcdefABCDEF".utf8.contains($0) }
    if digits.count > 15 { return .failed }
    let rest = line.dropFirst(digits.count)
    if digits.isEmpty, position < bytes.count { return .failed }
    if let first = rest.first {
      guard first == 59, rest.count - 1 <= HTTPLimits.chunkExtensionBytes, rest.allSatisfy(isText) else {
        return .failed
      }
    }
    guard isWhole else { return .open }
    position += line.count + 2
    guard let size = Int(String(decoding: digits, as: UTF8.self), radix: 16) else { return .failed }
    if size == 0 { return readTrailers(bytes, position) }
    guard bytes.count - position > size else { return .open }
    position += size
    for expected: UInt8 in [13, 10] {
      guard position < bytes.count else { return .open }
      guard bytes[position] == expected else { return .failed }
      position += 1
    }
  }
}

private func readTrailers(_ bytes: [UInt8], _ start: Int) -> Ending {
  var position = start
  var size = 0
  while true {
    guard let (line, isWhole) = nextLine(bytes, position) else { return .failed }
    if line.isEmpty, isWhole { return .after(position + 2) }
    let name = line.prefix { $0 != 58 }
    let hasColon = name.count < line.count
    guard name.allSatisfy(isNameByte), line.allSatisfy(isText), !hasColon || !name.isEmpty else { return .failed }
    if hasColon {
      let text = String(decoding: name, as: UTF8.self).lowercased().replacing("_", with: "-")
      if forbiddenTrailers.contains(text) { return .failed }
    }
    // The CR is counted with its line.
    size += line.count + (isWhole || position + line.count < bytes.count ? 1 : 0)
    if size > HTTPLimits.trailerBytes { return .failed }
    guard isWhole else { return position + line.count < bytes.count && !hasColon && !line.isEmpty ? .failed : .open }
    guard hasColon else { return .failed }
    position += line.count + 2
  }
}

/// The bytes up to CR LF or to the end; nil when a CR or LF stands alone. A CR at the very end may still be a whole.
private func nextLine(_ bytes: [UInt8], _ start: Int) -> (ArraySlice<UInt8>, isWhole: Bool)? {
  var end = start
  while end < bytes.count, bytes[end] != 13, bytes[end] != 10 { end += 1 }
  if end == bytes.count { return (bytes[start..<end], false) }
  guard bytes[end] == 13 else { return nil }
  if end + 1 == bytes.count { return (bytes[start..<end], false) }
  return bytes[end + 1] == 10 ? (bytes[start..<end], true) : nil
}

private func isText(_ byte: UInt8) -> Bool { byte == 9 || (byte >= 32 && byte != 127) }
private func isNameByte(_ byte: UInt8) -> Bool {
  "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".utf8.contains(byte)
}

// MARK: PROXY protocol

func fuzzProxy(_ bytes: [UInt8]) throws(FuzzFailure) {
  let whole = ProxyProtocol.parse(bytes.span)
  for cut in cuts(bytes.count) {
    let result = ProxyProtocol.parse(bytes.span.extracting(0..<cut))
    guard result != .needsMore else { continue }
    try check(result == whole, "\(result) after \(cut) bytes, \(whole) of all \(bytes.count)")
  }
  guard case .complete(let header) = whole else { return }
  try check(header.byteCount <= bytes.count, "a header is longer than what was read")
  try check((header.source == nil) == (header.destination == nil), "one address comes without the other")
  for version in 1...2 {
    var output = [UInt8](repeating: 0, count: ProxyProtocol.longestWritten)
    var span = output.mutableSpan
    guard
      let count = ProxyProtocol.write(
        version: version, source: header.source, destination: header.destination, into: &span)
    else { throw FuzzFailure(description: "a header that was read does not fit") }
    var again = header
    again.byteCount = count
    let result = ProxyProtocol.parse(output.span.extracting(0..<count))
    try check(result == .complete(again), "version \(version) of \(header) is read as \(result)")
  }
}
