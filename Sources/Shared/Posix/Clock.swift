// The two clocks: monotonic for waits, Unix time for what is written down. Pure rooms get the time as an argument.
private import Glibc

package enum Clock {
  /// Milliseconds since some fixed moment; never jumps.
  @inline(__always) package static var monotonicMilliseconds: Int {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1000 + time.tv_nsec / 1_000_000
  }

  /// Microseconds since some fixed moment; never jumps.
  @inline(__always) package static var monotonicMicroseconds: Int {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1_000_000 + time.tv_nsec / 1000
  }

  /// Milliseconds since 1970-01-01T00:00:00Z.
  package static var unixMilliseconds: Int {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return time.tv_sec * 1000 + time.tv_nsec / 1_000_000
  }
}
