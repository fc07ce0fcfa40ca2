// The log of a process that writes without end: its disk is bounded, and its last lines are always there.
import Domain
import Glibc
import Posix
import Routing
import Runtimes
import Testing

@Suite struct RuntimeLogTests {
  private static let mebibyte = 1 << 20

  /// The numbers of the lines `line 7 xxxx…` in a file, in their order; nil for a line that is not whole.
  private func numbers(_ bench: RuntimeBench, _ name: String) -> [Int?] {
    let bytes = Kernel.read("\(bench.directory)/instances/web-1/\(name)", limit: 64 * Self.mebibyte) ?? []
    return bytes.split(separator: UInt8(ascii: "\n")).map { line in
      let words = String(decoding: line, as: UTF8.self).split(separator: " ")
      return words.count == 3 && words[0] == "line" && words[2].utf8.count == 90 ? Int(words[1]) : nil
    }
  }

  private func size(_ bench: RuntimeBench, _ name: String) -> Int {
    Kernel.size(of: "\(bench.directory)/instances/web-1/\(name)") ?? 0
  }

  private static func writer(_ rest: String) -> PoolSpec {
    shellPool(
      """
      exec python3 -u -c '
      import os, sys, time
      def say(count):
        global number
        for _ in range(count):
          print("line", number, "x" * 90)
          number += 1
        sys.stdout.flush()
      number = 0
      sys.stdout = open(1, "w", buffering=1 << 16)
      \(rest)
      '
      """)
  }

  @Test func theLinesBeforeACrashAreThereAlsoRightAfterACut() async throws {
    let bench = try RuntimeBench("cut")
    // 90,000 lines of about 100 bytes; then, when it is told to, three more and a crash.
    let spec = Self.writer(
      """
      say(90000)
      while not os.path.exists("go"): time.sleep(0.01)
      say(3)
      os.kill(os.getpid(), 11)
      """)
    let record = try await bench.launch("web-1", spec)
    try await eventually("it has written") { self.numbers(bench, "log").last == 89_999 }
    #expect(size(bench, "log") > 8 * Self.mebibyte)
    #expect(await bench.runtime.check(record, spec: spec, depth: .process) == nil)
    #expect(size(bench, "log") == 0)
    let kept = numbers(bench, "log.1")
    let first = try #require(kept.first ?? nil)
    #expect(kept == (first..<90_000).map(Optional.some), "whole lines, none missing")
    #expect((Self.mebibyte - 200...Self.mebibyte).contains(size(bench, "log.1")))
    func last() async -> [Int?] {
      await bench.runtime.lastLines(of: record).map { $0.split(separator: " ").dropFirst().first.flatMap { Int($0) } }
    }
    #expect(await last() == (89_990..<90_000).map(Optional.some))

    // What it says after the cut stands behind that.
    #expect(Kernel.list("\(bench.directory)/instances/web-1")?.contains("log.1") == true)
    try Kernel.write([], to: "\(bench.directory)/instances/web-1/go")
    #expect(await bench.runtime.exit(of: record) == InstanceExit(signal: 11))
    #expect(await last() == (89_993..<90_003).map(Optional.some))
    #expect(numbers(bench, "log") == [90_000, 90_001, 90_002])

    // It is all of that instance, and goes with it.
    #expect(await bench.runtime.stop(record, kind: .http, graceMilliseconds: 0, force: true) == nil)
    #expect(!bench.has("instances/web-1"))
  }

  @Test func whoeverWritesWithoutEndTakesBoundedDisk() async throws {
    let bench = try RuntimeBench("endless")
    let spec = Self.writer("while True: say(1000)")
    let record = try await bench.launch("web-1", spec)
    var cuts = 0
    var before = 0
    var largest = 0
    try await eventually("it was cut five times") {
      let size = self.size(bench, "log")
      if size < before { cuts += 1 }
      before = size
      #expect(await bench.runtime.check(record, spec: spec, depth: .process) == nil)
      largest = max(largest, self.size(bench, "log.1"))
      return cuts >= 5
    }
    #expect(largest <= 2 * Self.mebibyte)
    kill(pid_t(try #require(record.pid)), SIGKILL)
    _ = await bench.runtime.exit(of: record)
    let older = numbers(bench, "log.1")
    // The program was in the middle of a line when it was ended.
    let newer = numbers(bench, "log").dropLast()
    #expect(!older.isEmpty && older.dropLast().allSatisfy { $0 != nil })
    let all = older.dropLast().compactMap(\.self) + newer.dropFirst().compactMap(\.self)
    #expect(zip(all, all.dropFirst()).allSatisfy { $0 < $1 }, "in their order")
    #expect(await bench.runtime.lastLines(of: record).count == 10)
    #expect(await bench.runtime.stop(record, kind: .http, graceMilliseconds: 0, force: true) == nil)
  }

  @Test func whatToDoStandsInTheReason() {
    #expect(
      KernelError(call: "mkdir /a", code: ENOSPC).description
        == "mkdir /a: No space left on device; free some space or inodes there, or choose another --state-directory")
    #expect(KernelError(call: "mkdir /a", code: EDQUOT).description.contains("; raise the quota of Berth's user"))
    #expect(KernelError(call: "mkdir /a", code: EROFS).description.contains("; mount it writable, or choose another"))
    #expect(KernelError(call: "mkdir /a", code: EACCES).description == "mkdir /a: Permission denied")
    #expect(Disk.problem(in: "/tmp") == nil)
    #expect(Disk.problem(in: "/nowhere") == nil, "not the disk's fault")
  }
}
