// Keeps the API keys as new as their file: reads it again when it has changed and at SIGHUP. A bad file changes nothing but a
// counter and a line in the log. One of the daemon's services; ControlPlane.swift makes it.
import Logging
import Routing
import Runtimes
import ServiceLifecycle
import Settings
import Supervisor
import Synchronization
import UnixSignals

struct KeysKeeper: Service {
  static let pauseMilliseconds = 1_000
  private static let limit = 1 << 20

  /// nil = there is none, and SIGHUP does nothing.
  let file: String?
  let keys: DeclaredKeys
  let metrics: ControlMetrics
  let bell: WakeBell
  let logger: Logger

  /// Reads the file for the start.
  static func read(_ name: String) throws(SettingsError) -> [KeyRecord] {
    guard let bytes = Kernel.read(name, limit: limit), let text = String(validating: bytes, as: UTF8.self) else {
      throw SettingsError("\(name): the keys file cannot be read (keysFile, BERTH_KEYS_FILE, --keys-file)")
    }
    return try KeysFile.parse(text, name: name)
  }

  func run() async throws {
    await withDiscardingTaskGroup { group in
      group.addTask {
        // Also without a file: it must not end the process.
        for await _ in await UnixSignalsSequence(trapping: .sighup).cancelOnGracefulShutdown() { self.reload() }
      }
      if let file { group.addTask { await self.watch(file) } }
      try? await gracefulShutdown()
      group.cancelAll()
    }
  }

  private func watch(_ file: String) async {
    var watch = KeysFileWatch(Kernel.read(file, limit: Self.limit))
    // It may have changed since the start.
    if let records = try? Self.read(file), records != keys.records { reload() }
    while !Task.isCancelled {
      do { try await Task.sleep(for: .milliseconds(Self.pauseMilliseconds)) } catch { return }
      if watch.look(Kernel.read(file, limit: Self.limit)) { reload() }
    }
  }

  private func reload() {
    guard let file else { return }
    do throws(SettingsError) {
      let records = try Self.read(file)
      keys.replace(records)
      metrics.count { $0.keysFileReloads += 1 }
      logger.notice("the keys file was read again", metadata: ["keys": "\(records.count)"])
      bell.ring()
    } catch {
      metrics.count { $0.keysFileFailures += 1 }
      logger.error(
        "the keys file could not be read again, the keys in force stay", metadata: ["reason": "\(error.description)"])
    }
  }
}
