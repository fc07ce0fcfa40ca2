// The bytes below a connection: a TCP or Unix socket, plain or with TLS. Made by RedisConnection only.
import Glibc
import TLS

/// Moves bytes for one connection; used by one thread. After an error nothing but `close` may be called.
protocol Transport: AnyObject {
  /// Reads what is there, waiting for at least one byte: how many; 0 at the end, nil when time ran out.
  func read(into buffer: UnsafeMutableRawBufferPointer, _ deadline: Deadline) throws(RedisError) -> Int?
  /// Writes everything; false when time ran out.
  func write(_ bytes: UnsafeRawBufferPointer, _ deadline: Deadline) throws(RedisError) -> Bool
  /// Whether there are bytes, an end or an error to be read at once.
  var hasInput: Bool { get }
  func close()
}

final class PlainTransport: Transport {
  let socket: Int32
  private let interrupter: RedisInterrupter
  private var closed = false
  /// Ends the connection when sentinels name another master.
  var watch: SentinelWatch?

  init(socket: Int32, interrupter: RedisInterrupter) {
    self.socket = socket
    self.interrupter = interrupter
    interrupter.watch(socket)
  }

  deinit { close() }

  func read(into buffer: UnsafeMutableRawBufferPointer, _ deadline: Deadline) throws(RedisError) -> Int? {
    while true {
      let count = unsafe recv(socket, buffer.baseAddress!, buffer.count, 0)
      if count >= 0 { return count }
      switch errno {
      case EINTR: continue
      case EAGAIN: if try !interrupter.wait(for: socket, events: POLLIN, deadline) { return nil }
      case let number: throw .closed(errorText(number), mayHaveRun: true)
      }
    }
  }

  func write(_ bytes: UnsafeRawBufferPointer, _ deadline: Deadline) throws(RedisError) -> Bool {
    var sent = 0
    while sent < bytes.count {
      let count = unsafe send(socket, bytes.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
      if count >= 0 {
        sent += count
        continue
      }
      switch errno {
      case EINTR: continue
      case EAGAIN: if try !interrupter.wait(for: socket, events: POLLOUT, deadline) { return false }
      case let number: throw .closed(errorText(number), mayHaveRun: true)
      }
    }
    return true
  }

  var hasInput: Bool {
    var poller = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&poller, 1, 0) != 0
  }

  func close() {
    guard !closed else { return }
    closed = true
    watch?.leave(socket)
    interrupter.unwatch(socket)
    Glibc.close(socket)
  }
}

/// TLS on top of a plain transport's socket. Its waits know only the socket: an interruption shuts that down.
final class TLSTransport: Transport {
  private let plain: PlainTransport
  private let stream: TLSClientStream

  init(
    _ plain: PlainTransport, host: String, settings: RedisURL.TLS, interrupter: RedisInterrupter, _ deadline: Deadline
  )
    throws(RedisError)
  {
    self.plain = plain
    do throws(TLSError) {
      stream = try TLSClientStream(
        fileDescriptor: plain.socket, serverName: host, caFile: settings.caFile, verify: settings.verify,
        timeoutMilliseconds: deadline.remainingMilliseconds)
    } catch {
      if interrupter.isInterrupted { throw .interrupted }
      let advice =
        switch error.kind {
        case .untrusted: "; name the CA's file with ?ca=FILE in REDIS_URL"
        case .handshake: "; is this Redis' TLS port?"
        case .file, .timedOut, .connection, .library: ""
        }
      throw .connect(error.description + advice)
    }
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, _ deadline: Deadline) throws(RedisError) -> Int? {
    stream.timeoutMilliseconds = deadline.remainingMilliseconds
    do throws(TLSError) {
      return unsafe try stream.read(into: buffer)
    } catch {
      if error.kind == .timedOut { return nil }
      throw .closed(error.description, mayHaveRun: true)
    }
  }

  func write(_ bytes: UnsafeRawBufferPointer, _ deadline: Deadline) throws(RedisError) -> Bool {
    var sent = 0
    while sent < bytes.count {
      stream.timeoutMilliseconds = deadline.remainingMilliseconds
      do throws(TLSError) {
        sent += unsafe try stream.write(UnsafeRawBufferPointer(rebasing: bytes[sent...]))
      } catch {
        if error.kind == .timedOut { return false }
        throw .closed(error.description, mayHaveRun: true)
      }
    }
    return true
  }

  var hasInput: Bool { stream.holdsInput || plain.hasInput }

  func close() {
    stream.close()
    plain.close()
  }
}
