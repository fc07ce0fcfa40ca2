// Whether this kernel could encrypt in our place. The data plane's daemon tells it at its start; docs/decisions/0013 says why
// nothing more is made of it.
import CLinux

package enum KernelTLS {
  /// Asks the kernel: it takes the upper layer protocol "tls" on a connection, or not.
  package static func isAvailable() -> Bool { clinux_kernel_tls() == 1 }
}
