// Makes the socket of a connection: looks the host up, tries its addresses one after the other, sets keepalive.
import Glibc

/// Connects within the time; the error says where and why not.
func dial(_ url: RedisURL, interrupter: RedisInterrupter, _ deadline: Deadline) throws(RedisError) -> Int32 {
  switch url.place {
  case .unix(let path):
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    let result = unsafe withUnsafePointer(to: &address) { pointer -> Result<Int32, RedisError> in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
        Result { () throws(RedisError) -> Int32 in
          unsafe try connected(
            url, family: AF_UNIX, pointer, socklen_t(MemoryLayout<sockaddr_un>.size), interrupter, deadline)
        }
      }
    }
    return try result.get()

  case .tcp(let host, let port):
    var hints = unsafe addrinfo()
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    unsafe hints.ai_flags = AI_NUMERICSERV
    var found: UnsafeMutablePointer<addrinfo>?
    let code = unsafe getaddrinfo(host, String(port), &hints, &found)
    guard code == 0 else {
      throw .connect("\(url): no address for the host: \(unsafe String(cString: gai_strerror(code)))")
    }
    defer { unsafe freeaddrinfo(found) }
    var failure = RedisError.connect("\(url): the host has no address")
    var next = unsafe found
    while let entry = unsafe next {
      do throws(RedisError) {
        let socket = unsafe try connected(
          url, family: entry.pointee.ai_family, entry.pointee.ai_addr, entry.pointee.ai_addrlen, interrupter, deadline)
        keepAlive(socket)
        return socket
      } catch {
        if error == .interrupted { throw error }
        failure = error
      }
      unsafe next = entry.pointee.ai_next
    }
    throw failure
  }
}

private func connected(
  _ url: RedisURL, family: Int32, _ address: UnsafePointer<sockaddr>, _ length: socklen_t,
  _ interrupter: RedisInterrupter, _ deadline: Deadline
) throws(RedisError) -> Int32 {
  let socket = socket(family, Int32(SOCK_STREAM.rawValue) | socketFlags, 0)
  guard socket >= 0 else { throw .connect("\(url): no socket: \(errorText(errno)); raise the limit of open files") }
  do throws(RedisError) {
    var number: Int32 = 0
    if unsafe connect(socket, address, length) != 0 { number = errno }
    // A full backlog of a Unix socket says EAGAIN at once instead of letting the connect wait.
    if number == EINPROGRESS || number == EINTR {
      guard try interrupter.wait(for: socket, events: POLLOUT, deadline) else {
        throw .connect("\(url): no connection in time; is the host up, and does a firewall let it through?")
      }
      var size = socklen_t(MemoryLayout<Int32>.size)
      unsafe getsockopt(socket, SOL_SOCKET, SO_ERROR, &number, &size)
    }
    guard number == 0 else {
      throw .connect("\(url): \(errorText(number)); is Redis running there?")
    }
    return socket
  } catch {
    close(socket)
    throw error
  }
}

/// A peer that vanished without a word is noticed after about ten seconds, also by a thread that only listens.
private func keepAlive(_ socket: Int32) {
  for (level, option, value) in [
    (SOL_SOCKET, SO_KEEPALIVE, 1), (Int32(IPPROTO_TCP), TCP_KEEPIDLE, 5),
    (Int32(IPPROTO_TCP), TCP_KEEPINTVL, 2), (Int32(IPPROTO_TCP), TCP_KEEPCNT, 3),
    (Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, 10_000), (Int32(IPPROTO_TCP), TCP_NODELAY, 1),
  ] {
    var value = Int32(value)
    // A refused option costs speed or time, never correctness.
    _ = unsafe setsockopt(socket, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
  }
}
