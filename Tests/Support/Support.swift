// What tests of every kind need: waiting for a condition, threads, files, and random numbers from a printed seed.
import Glibc
import Synchronization

/// A condition did not come true in time.
package struct WaitError: Error, CustomStringConvertible {
  package let description: String
}

/// Waits until the condition is true, looking every few milliseconds; throws when the bound is reached. It blocks its
/// thread, so async code gets the other one.
@available(*, noasync)
package func waitUntil(
  _ what: String, withinMilliseconds bound: Int = 60_000, _ condition: () throws -> Bool
) throws {
  let start = ContinuousClock.now
  while try !condition() {
    if ContinuousClock.now - start > .milliseconds(bound) {
      throw WaitError(description: "\(what): not within \(bound) ms")
    }
    usleep(2_000)
  }
}

/// The same for async conditions.
package func waitUntil(
  _ what: String, withinMilliseconds bound: Int = 60_000, _ condition: () async throws -> Bool
) async throws {
  let start = ContinuousClock.now
  while try await !condition() {
    if ContinuousClock.now - start > .milliseconds(bound) {
      throw WaitError(description: "\(what): not within \(bound) ms")
    }
    try await Task.sleep(for: .milliseconds(2))
  }
}

/// A thread of its own for work that blocks; ``join()`` gives what the work gave.
@safe package final class TestThread<Value: Sendable>: Sendable {
  private final class Start: Sendable {
    let body: @Sendable () throws -> Value
    let result = Mutex<Result<Value, any Error>?>(nil)
    init(_ body: @escaping @Sendable () throws -> Value) { self.body = body }
  }
  private let start: Start
  private let thread: pthread_t

  package init(_ body: @escaping @Sendable () throws -> Value) {
    start = Start(body)
    var thread = pthread_t()
    // The closure of a C function may not be generic: it gets one without.
    let run = Box { [start] in
      let result = Result { try start.body() }
      start.result.withLock { $0 = result }
    }
    let argument = unsafe Unmanaged.passRetained(run).toOpaque()
    let code = unsafe pthread_create(
      &thread, nil,
      { argument in
        unsafe Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, argument)
    precondition(code == 0, "no thread")
    self.thread = thread
  }

  /// Waits for the end; call it once.
  package func join() throws -> Value {
    pthread_join(thread, nil)
    return try start.result.withLock { $0! }.get()
  }
}

private final class Box: Sendable {
  let run: @Sendable () -> Void
  init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}

/// SplitMix64: random numbers that a seed repeats. Tests print the seed.
package struct SplitMix64: RandomNumberGenerator {
  private var state: UInt64
  package init(seed: UInt64) { state = seed }
  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// The seed of the environment variable BERTH_SEED, or a new one; printed, so that a failure can be repeated.
  package static func printedSeed(for test: String) -> UInt64 {
    var seed = UInt64.random(in: 0 ... .max)
    if let text = unsafe getenv("BERTH_SEED"), let given = unsafe UInt64(String(cString: text)) { seed = given }
    print("\(test): BERTH_SEED=\(seed)")
    return seed
  }
}

/// Replaces a file.
package func writeFile(_ path: String, _ text: String) throws {
  let file = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
  guard file >= 0 else { throw FixtureError("\(path) cannot be written") }
  defer { close(file) }
  let bytes = Array(text.utf8)
  guard unsafe bytes.withUnsafeBytes({ unsafe write(file, $0.baseAddress, $0.count) }) == bytes.count else {
    throw FixtureError("\(path) cannot be written")
  }
}

/// A file's text, or nil.
package func readFile(_ path: String) -> String? {
  let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
  guard file >= 0 else { return nil }
  defer { close(file) }
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 4_096)
  while true {
    let count = unsafe read(file, &buffer, buffer.count)
    if count <= 0 { break }
    bytes += buffer[..<count]
  }
  return String(decoding: bytes, as: UTF8.self)
}
