// How much of what this host has. Used by the control plane to say how busy instances are.
import Glibc

package enum Host {
  /// Memory of the host, bytes; at least 1.
  package static var memoryBytes: Int { max(1, sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))) }
}
