// Keeps what TLS clients are shown as new as the files: reads them at the start, again when they change, and on SIGHUP. Bad
// files change nothing but a counter and a line in the log. Replica's main thread calls it, the admin thread reads its
// figures.
import Engine
import Observability
import Synchronization
import TLS

final class CertificateKeeper {
  /// What /metrics shows of the files.
  final class Figures: Sendable {
    struct Values: Sendable {
      var reloads = 0
      var failures = 0
      /// Whether what is served is what lies in the files.
      var isCurrent = true
      var ends: [(certificateFile: String, notAfter: Int)] = []
    }
    private let state = Mutex(Values())
    var values: Values { state.withLock { $0 } }
    fileprivate func change(_ body: (inout Values) -> Void) { state.withLock { body(&$0) } }
  }

  let figures = Figures()
  /// What the engine starts with.
  let first: Certificates
  private var watch: TLSFilesWatch
  /// Makes the keys of tickets when no file does; kept from reload to reload, so that sessions go on.
  private let processSecret = TLSTicketSecret.random()
  private let log: LogWriter

  /// nil without files: the replica has no TLS. Throws when they are not good.
  static func make(_ files: TLSFiles, log: LogWriter) throws(TLSError) -> CertificateKeeper? {
    files.isEmpty ? nil : try CertificateKeeper(files, log)
  }

  private init(_ files: TLSFiles, _ log: LogWriter) throws(TLSError) {
    // Before the files are read, so that a change meanwhile is seen.
    watch = TLSFilesWatch(files)
    self.log = log
    let context = try files.context(processSecret: processSecret)
    first = Certificates(context: context)
    tell(context)
  }

  /// New certificates when the files have changed and are good. Call it every second: a change counts when it has stood for
  /// one call, because a certificate and its key cannot be replaced at once.
  func look() -> Certificates? { watch.look() ? read() : nil }

  /// The same without waiting for a change.
  func reload() -> Certificates? {
    watch.willRead()
    return read()
  }

  private func read() -> Certificates? {
    do throws(TLSError) {
      let context = try watch.files.context(processSecret: processSecret)
      figures.change {
        $0.reloads += 1
        $0.isCurrent = true
      }
      tell(context)
      log.info("certificates were read again", ["certificates": .int(context.ends.count)])
      return Certificates(context: context)
    } catch {
      figures.change {
        $0.failures += 1
        $0.isCurrent = false
      }
      log.error(
        "the certificates could not be read again, those in force stay", ["reason": .string(error.description)])
      return nil
    }
  }

  private func tell(_ context: TLSServerContext) {
    figures.change { $0.ends = context.ends }
    for warning in context.warnings {
      log.warning("a certificate is not as it should be", ["reason": .string(warning)])
    }
  }
}
