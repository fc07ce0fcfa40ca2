// Makes the socket of a connection: has the host looked up, tries its addresses one after the other, sets keepalive.
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
    let addresses: [HostLookup.Address]
    switch HostLookup.find(host, port: port, interrupter: interrupter, deadline) {
    case .found(let found): addresses = found
    case .none(let why): throw .connect("\(url): no address for the host: \(why)")
    case .late:
      throw .connect(
        "\(url): the host's name was not looked up in time; do the name servers answer? An address needs none")
    case .interrupted: throw .interrupted
    }
    var failure = RedisError.connect("\(url): the host has no address")
    for address in addresses {
      do throws(RedisError) {
        let result = unsafe address.bytes.withUnsafeBytes { bytes in
          Result { () throws(RedisError) -> Int32 in
            unsafe try connected(
              url, family: address.family, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self),
              socklen_t(bytes.count), interrupter, deadline)
          }
        }
        let socket = try result.get()
        keepAlive(socket)
        return socket
      } catch {
        if error == .interrupted { throw error }
        failure = error
      }
    }
    throw failure

  case .sentinel: preconditionFailure("the sentinels are asked first: see SentinelLookup")
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
