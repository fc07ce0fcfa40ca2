// Whether this kernel could seal TLS records in our place. The data plane's daemon tells it at its start; workers find out by
// trying when they are asked to (docs/decisions/0013).
import CLinux

package enum KernelTLS {
  /// Asks the kernel: it takes the upper layer protocol "tls" on a connection, or not.
  package static func isAvailable() -> Bool { clinux_kernel_tls() == 1 }
}
