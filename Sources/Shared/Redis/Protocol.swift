// The Redis protocol (RESP2), by hiredis: words to bytes and bytes to replies. No I/O. Used by RedisConnection.
import CHiredis
import Glibc
import State

/// The bytes of one command.
func encode(_ words: [String], into out: inout [UInt8]) {
  precondition(!words.isEmpty, "a command has at least a name")
  // All words in one block, so that their addresses stay while hiredis reads them.
  var block: [UInt8] = []
  var lengths: [Int] = []
  for word in words {
    let start = block.count
    block.append(contentsOf: word.utf8)
    lengths.append(block.count - start)
  }
  // hiredis copies with memcpy, which must not see a null pointer, not even for nothing.
  block.append(0)
  unsafe block.withUnsafeBytes { block in
    let first = unsafe block.baseAddress!.assumingMemoryBound(to: CChar.self)
    var arguments: [UnsafePointer<CChar>?] = unsafe []
    var offset = 0
    for length in lengths {
      unsafe arguments.append(first + offset)
      offset += length
    }
    var formatted: UnsafeMutablePointer<CChar>?
    let count = unsafe redisFormatCommandArgv(&formatted, Int32(words.count), &arguments, lengths)
    guard count >= 0, let formatted = unsafe formatted else { fatalError("out of memory for a Redis command") }
    unsafe out.append(contentsOf: UnsafeRawBufferPointer(start: formatted, count: Int(count)))
    unsafe redisFreeCommand(formatted)
  }
}

/// Puts replies together from the pieces that come.
@safe final class ReplyReader {
  private let reader: UnsafeMutablePointer<redisReader>
  /// Bytes of the reply that is under way.
  private var pending = 0
  /// A longer reply is refused, as only a wrong peer or a runaway list would send one.
  private let maximumReplyBytes: Int

  init(maximumReplyBytes: Int) {
    guard let reader = unsafe redisReaderCreate() else { fatalError("out of memory for a Redis reader") }
    unsafe self.reader = unsafe reader
    self.maximumReplyBytes = maximumReplyBytes
  }

  deinit { unsafe redisReaderFree(reader) }

  /// nil when fine, else what is wrong.
  func feed(_ bytes: UnsafeRawBufferPointer) -> String? {
    pending += bytes.count
    guard pending <= maximumReplyBytes else { return "a reply of more than \(maximumReplyBytes) bytes came" }
    let result = unsafe redisReaderFeed(reader, bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
    return result == REDIS_OK ? nil : problem
  }

  private var problem: String {
    unsafe withUnsafeBytes(of: reader.pointee.errstr) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  /// The next whole reply; nil when more bytes are needed.
  func next() throws(StateError) -> Reply? {
    var object: UnsafeMutableRawPointer?
    guard unsafe redisReaderGetReply(reader, &object) == REDIS_OK else {
      throw StateError("this is not the Redis protocol: \(problem)")
    }
    guard let object = unsafe object else { return nil }
    defer { unsafe freeReplyObject(object) }
    pending = unsafe reader.pointee.len - reader.pointee.pos
    return unsafe Self.reply(object.assumingMemoryBound(to: redisReply.self))
  }

  private static func reply(_ object: UnsafeMutablePointer<redisReply>) -> Reply {
    let value = unsafe object.pointee
    var bytes: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(start: value.str, count: value.len) }
    switch unsafe value.type {
    case REDIS_REPLY_STRING: return unsafe .string(Array(bytes))
    case REDIS_REPLY_STATUS: return unsafe .status(String(decoding: bytes, as: UTF8.self))
    case REDIS_REPLY_ERROR: return unsafe .error(String(decoding: bytes, as: UTF8.self))
    case REDIS_REPLY_INTEGER: return unsafe .int(Int(value.integer))
    case REDIS_REPLY_ARRAY:
      var replies: [Reply] = []
      replies.reserveCapacity(unsafe value.elements)
      for index in 0..<(unsafe value.elements) { unsafe replies.append(reply(value.element[index]!)) }
      return .array(replies)
    default: return .null
    }
  }
}
