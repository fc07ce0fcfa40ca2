// Unix sockets as addresses, and what is done about a file that is there already.
import Glibc
import Posix
import Testing

@Suite struct UnixAddressTests {
  private func path(_ name: String) -> String { "/tmp/berth-unix-\(getpid())-\(name)" }

  @Test func textsAndBack() throws {
    let address = try #require(SocketAddress("unix:/run/app.sock"))
    #expect(address.isUnix && !address.isIPv6 && address.isLoopback && address.port == 0)
    #expect(address.description == "unix:/run/app.sock" && address.unixPath == "/run/app.sock")
    #expect(SocketAddress(host: "unix:/run/app.sock", port: 0)?.description == address.description)
    #expect(SocketAddress("unix:/run/other.sock")?.unixPath == "/run/other.sock")
    #expect(SocketAddress("127.0.0.1:1")?.unixPath == nil)
    #expect(SocketAddress("unix:relative") == nil && SocketAddress("unix:") == nil)
    #expect(SocketAddress("unix:/" + String(repeating: "x", count: 107)) == nil)
  }

  @Test func aSocketThatNobodyHasIsReplacedAndAnotherIsNot() throws {
    let path = path("taken")
    defer { unsafe unlink(path) }
    let address = try #require(SocketAddress(unixPath: path))
    func listen() -> Int { Socket.listen(address, backlog: 4, sharesPort: false, defersAccept: false) }
    let first = listen()
    #expect(first >= 0)
    #expect(listen() == Errno.addressInUse)
    let (client, _) = Socket.connect(address)
    #expect(client >= 0 && Socket.hasInput(Int32(first)))
    var peer = SocketAddress()
    let accepted = Socket.accept(Int32(first), from: &peer)
    #expect(accepted >= 0 && peer.isUnix)
    for fd in [first, client, accepted] { Socket.close(Int32(fd)) }
    // What a dead process left is no hindrance.
    #expect(UnixSocket.isSocket(path) && Socket.connect(address).descriptor == -Int(ECONNREFUSED))
    let second = listen()
    #expect(second >= 0)
    Socket.close(Int32(second))
    // A file that is no socket is somebody's.
    unsafe unlink(path)
    let file = unsafe open(path, O_CREAT | O_WRONLY, 0o600)
    close(file)
    #expect(listen() == -Int(ENOTSOCK))
  }
}
