// The access log: one JSON line a request or tunnel, written off the workers' path. Each worker has a ring in fixed memory
// (WorkerAccessLog); one thread empties all of them many times a second into one buffer and one write(2). A slow disk or a
// reader that does not read costs lines, which are counted, never a worker's time. berth-data owns one.
private import Glibc
package import Observability
import Posix
private import Synchronization

package final class AccessLog: Sendable {
  /// In the order of the engine's workers. They belong to this object, which therefore outlives the workers.
  package let workers: [WorkerAccessLog]
  private let core: AccessLogCore

  /// Opens the file; throws what is wrong with it.
  /// - Parameters:
  ///   - labels: names the rows that records refer to.
  ///   - log: told, once in a while, when lines are lost.
  ///   - ringBytes: per worker; a power of two. 1 MiB is 50 ms at 100,000 requests a second.
  package init(
    _ destination: AccessLogDestination, workers: Int, labels: LabeledMetrics, log: LogWriter,
    ringBytes: Int = 1_048_576
  ) throws(EngineError) {
    let file = try AccessLogFile(destination)
    core = AccessLogCore(workers: workers, ringBytes: ringBytes, file: file, labels: labels, log: log)
    self.workers = core.workers
    _ = Thread.start("berth-accesslog") { [core] in core.run() }
  }

  deinit { core.stop(withinMilliseconds: 0) }

  /// Opens the file anew, for log rotation; the lines up to now go to the old one. Returns at once.
  package func reopen() { core.reopen() }

  /// Lines written to the file since the start.
  package var written: Int { core.count(.written) }
  /// Records that found their worker's ring full.
  package var dropped: Int { core.droppedInRings }
  /// Lines that could not be written.
  package var lost: Int { core.count(.lost) }

  /// Writes what workers have put in so far, and ends. Call it when the workers have ended. False when the time was too
  /// short, as for a pipe that is not read.
  @discardableResult package func close(timeoutMilliseconds: Int = 1_000) -> Bool {
    core.stop(withinMilliseconds: timeoutMilliseconds)
    return core.waitUntilDone(milliseconds: timeoutMilliseconds + 500)
  }
}

/// What the writer's thread shares with ``AccessLog``; it lives as long as either.
private final class AccessLogCore: Sendable {
  enum Count: Int { case written, lost }

  let workers: [WorkerAccessLog]
  private let doorbell = Doorbell()
  private let done = Doorbell()
  private let file: AccessLogFile
  private let labels: LabeledMetrics
  private let log: LogWriter
  private let writtenLines = Atomic<Int>(0)
  private let lostLines = Atomic<Int>(0)
  private let reopens = Atomic<Bool>(false)
  /// Monotonic milliseconds at which the writer gives up; `Int.max` while it shall not end.
  private let end = Atomic<Int>(.max)

  /// While requests come. Long enough that waking costs nothing beside the lines, short enough for a small ring.
  private static let busyMilliseconds: Int32 = 20
  /// When none came for a second. A worker that fills half of its ring meanwhile rings.
  private static let idleMilliseconds: Int32 = 100
  private static let bufferBytes = 262_144
  /// Lost lines are told no more often.
  private static let reportMilliseconds = 10_000

  init(workers: Int, ringBytes: Int, file: AccessLogFile, labels: LabeledMetrics, log: LogWriter) {
    let doorbell = doorbell
    self.workers = (0..<workers).map { _ in WorkerAccessLog(ringBytes: ringBytes, doorbell: doorbell) }
    self.file = file
    self.labels = labels
    self.log = log
  }

  deinit {
    for worker in workers { worker.free() }
    doorbell.close()
    done.close()
  }

  // MARK: Calls of other threads

  func count(_ count: Count) -> Int {
    switch count {
    case .written: writtenLines.load(ordering: .relaxed)
    case .lost: lostLines.load(ordering: .relaxed)
    }
  }
  var droppedInRings: Int { workers.reduce(0) { $0 + Int($1.ring.droppedCount) } }

  func reopen() {
    reopens.store(true, ordering: .releasing)
    doorbell.ring()
  }

  func stop(withinMilliseconds limit: Int) {
    let wanted = Clock.monotonicMilliseconds + limit
    if wanted < end.load(ordering: .relaxed) { end.store(wanted, ordering: .releasing) }
    doorbell.ring()
  }

  func waitUntilDone(milliseconds: Int) -> Bool {
    var entry = pollfd(fd: done.descriptor, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&entry, 1, Int32(clamping: milliseconds)) == 1
  }

  // MARK: The writer's thread

  /// Where the thread is; nobody else sees it.
  private struct Progress {
    var namesVersion = -1
    var lastRecord = 0
    var toldLoss = 0
    var lastReport = Int.min
    var reason: String?
  }

  func run() {
    var lines = AccessLogLines(capacity: Self.bufferBytes)
    var progress = Progress()
    while true {
      let ending = end.load(ordering: .acquiring) < .max
      if reopens.exchange(false, ordering: .acquiring) {
        do { try file.reopen() } catch {
          log.error("the access log stays where it was", ["reason": .string(error.description)])
        }
      }
      let now = Clock.monotonicMilliseconds
      if empty(&lines, &progress) { progress.lastRecord = now }
      report(&progress, now, ending)
      if ending { break }
      let isBusy = now - progress.lastRecord < 1_000
      var entry = pollfd(fd: doorbell.descriptor, events: Int16(POLLIN), revents: 0)
      if unsafe poll(&entry, 1, isBusy ? Self.busyMilliseconds : Self.idleMilliseconds) > 0 { doorbell.silence() }
    }
    done.ring()
  }

  /// Writes what is in the rings; true if something was.
  private func empty(_ lines: inout AccessLogLines, _ progress: inout Progress) -> Bool {
    var found = false
    lines.setClock(
      unixMicroseconds: Clock.unixMilliseconds * 1_000, monotonicMicroseconds: Clock.monotonicMicroseconds)
    for worker in workers {
      let head = worker.ring.filled
      guard worker.ring.hasRecords(before: head) else { continue }
      found = true
      // After the look at the ring, so that no record refers to a name that is newer.
      let version = labels.namesVersion
      if version != progress.namesVersion {
        lines.setNames(routes: labels.names(.route), pools: labels.names(.pool), instances: labels.names(.instance))
        progress.namesVersion = version
      }
      unsafe worker.ring.drain(upTo: head) { record, text in
        if !lines.hasRoom { flush(&lines, &progress) }
        unsafe lines.append(record, text)
      }
    }
    flush(&lines, &progress)
    return found
  }

  private func flush(_ lines: inout AccessLogLines, _ progress: inout Progress) {
    guard lines.count > 0 else { return }
    let outcome = unsafe file.write(lines.pointer, lines.count) {
      end.load(ordering: .relaxed) <= Clock.monotonicMilliseconds
    }
    var lost = 0
    switch outcome {
    case .written: break
    case .failed(let code, let lines):
      lost = lines
      progress.reason = AccessLogFile.reason(code)
    case .abandoned(let lines):
      lost = lines
      progress.reason = "its reader did not read until the end"
    }
    writtenLines.add(lines.lines - lost, ordering: .relaxed)
    lostLines.add(lost, ordering: .relaxed)
    lines.removeAll()
  }

  private func report(_ progress: inout Progress, _ now: Int, _ ending: Bool) {
    let lost = droppedInRings + count(.lost)
    guard lost > progress.toldLoss, ending || now - Self.reportMilliseconds >= progress.lastReport else { return }
    log.error(
      "lines of the access log were lost",
      [
        "count": .int(lost - progress.toldLoss), "file": .string(file.name),
        "reason": .string(progress.reason ?? "more requests than the disk or reader takes"),
      ])
    progress.toldLoss = lost
    progress.lastReport = now
    progress.reason = nil
  }
}
