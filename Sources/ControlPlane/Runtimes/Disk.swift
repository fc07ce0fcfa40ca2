// A file system that takes no more: full, over a quota, or mounted read-only. Without a word of it a browser only dies
// at its start, with nothing in its log. Asked by ProcessRuntime before each launch, and by the daemon every few
// seconds.
private import Glibc

extension KernelError {
  /// What to do about a file system that cannot be written; nil when the call failed for another reason.
  package var diskAdvice: String? {
    switch code {
    case ENOSPC: "free some space or inodes there, or choose another --state-directory"
    case EDQUOT: "raise the quota of Berth's user, free some space there, or choose another --state-directory"
    case EROFS: "mount it writable, or choose another --state-directory"
    default: nil
    }
  }
}

package enum Disk {
  /// As much has to be free for an instance to be started: a Chrome's new profile takes some hundred kilobytes.
  package static let roomBytes = 1 << 20

  /// Finds out whether a directory takes a file of ``roomBytes``, by making one without a name that outlives it:
  /// neither quotas nor a file system without inodes show in statvfs(3).
  package static func check(_ directory: String) throws(KernelError) {
    let path = "\(directory)/.room-\(Kernel.processID)-\(UInt32.random(in: 0 ... .max))"
    let file = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw KernelError(call: "make a file in \(directory)", code: errno) }
    unsafe unlink(path)
    defer { Kernel.close(file) }
    var code = posix_fallocate(file, 0, off_t(roomBytes))
    while code == EINTR { code = posix_fallocate(file, 0, off_t(roomBytes)) }
    guard code == 0 else { throw KernelError(call: "write to \(directory)", code: code) }
  }

  /// The same, as a sentence; nil when it can be written, or cannot be for a reason that is not the disk's.
  package static func problem(in directory: String) -> String? {
    do throws(KernelError) {
      try check(directory)
      return nil
    } catch {
      return error.diskAdvice == nil ? nil : error.description
    }
  }
}
