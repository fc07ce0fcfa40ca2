// Whether this kernel has TLS: the question's answer is the kernel's own. EngineKernelTLSTests has what is made of it.
import Foundation
import Glibc
import Posix
import Testing

@Suite("Kernel TLS")
struct KernelTLSTests {
  /// What the kernel says itself, without being asked for a connection: names of the protocols that it has. A module that
  /// is not loaded yet is not among them, so the answer may be yes where this says no.
  private var isListed: Bool {
    let names = (try? String(contentsOfFile: "/proc/sys/net/ipv4/tcp_available_ulp", encoding: .utf8)) ?? ""
    return names.split(whereSeparator: { $0 == " " || $0 == "\n" }).contains("tls")
  }

  @Test func theProbeAgreesWithTheKernel() {
    let answer = KernelTLS.isAvailable()
    // Asking loads the module where there is one, so the list is right afterwards.
    #expect(answer == isListed)
    print("kernel TLS: this kernel has \(answer ? "it" : "none, so what it would do could not be tried here")")
  }

  @Test func askingLeavesNoDescriptorOpen() {
    func open() -> Int { (0..<256).count { fcntl(Int32($0), F_GETFD) >= 0 } }
    let before = open()
    for _ in 0..<50 { _ = KernelTLS.isAvailable() }
    #expect(open() <= before)
  }
}
