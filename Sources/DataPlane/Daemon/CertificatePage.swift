// The part of /metrics that is about certificates as files: whether what is served is what lies there, and when it ends.
import Observability

struct CertificatePage {
  let figures: CertificateKeeper.Figures.Values
  /// Series are bounded: a directory with more certificates shows those that end first.
  private static let shown = 256

  func write(to page: inout MetricsText) {
    page.single("berth_tls_reloads_total", .counter, "Times that certificates were read again.", figures.reloads)
    page.single(
      "berth_tls_reload_failures_total", .counter, "Times that files were not good and what was in force stayed.",
      figures.failures)
    page.single(
      "berth_tls_files_current", .gauge, "1 while what is served is what lies in the files.", figures.isCurrent ? 1 : 0)
    page.family("berth_tls_certificate_end_seconds", .gauge, "When a certificate expires, in Unix time.")
    for end in figures.ends.sorted(by: { $0.notAfter < $1.notAfter }).prefix(Self.shown) {
      page.sample(end.notAfter, ["file": end.certificateFile])
    }
  }
}
