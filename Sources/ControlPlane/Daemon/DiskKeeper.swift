// Looks every few seconds whether the state directory can still be written, and says so where an operator looks: the
// log, GET /api/status, and figures. One of the daemon's services; ControlPlane.swift makes it.
import Logging
import Runtimes
import ServiceLifecycle
import Supervisor

struct DiskKeeper: Service {
  private static let pauseMilliseconds = 3_000

  let directory: String
  let metrics: ControlMetrics
  let logger: Logger

  func run() async throws {
    await cancelWhenGracefulShutdown { await watch() }
  }

  private func watch() async {
    var known: String?
    while !Task.isCancelled {
      let problem = await BlockingPool.shared.run { [directory] in Disk.problem(in: directory) }
      if problem != known {
        metrics.count { $0.diskProblem = problem }
        if let problem {
          logger.error(
            "the disk takes no more: instances of processes do not start", metadata: ["reason": "\(problem)"])
        } else {
          logger.notice("the disk can be written again", metadata: ["directory": "\(directory)"])
        }
        known = problem
      }
      do { try await Task.sleep(for: .milliseconds(Self.pauseMilliseconds)) } catch { return }
    }
  }
}
