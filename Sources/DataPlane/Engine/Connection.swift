// One socket of a worker, client's or instance's, and the slab that holds them by descriptor.
import Balancing
import CDP
import HTTPWire
import Posix
import ProxyMachine
import TLS

/// How the bytes that come in on a connection are followed to the end of their message.
struct BodyState: BitwiseCopyable {
  enum Mode: UInt8, BitwiseCopyable {
    /// No body is being read: between messages.
    case idle
    case length, chunked, untilClose, tunnel
    /// A discovery answer that is collected to be rewritten.
    case collect
  }
  var mode = Mode.idle
  var remaining: UInt64 = 0
  var chunks = ChunkedBody()

  init() {}
  init(_ framing: BodyFraming) {
    switch framing {
    case .none: mode = .idle
    case .length(let count):
      mode = .length
      remaining = count
    case .chunked: mode = .chunked
    case .untilClose: mode = .untilClose
    }
  }
}

/// What a deadline means when it passes.
enum Wait: UInt8, BitwiseCopyable {
  case none, handshake, head, keepAlive, slot, goneWithoutSlot, connect, firstByte, body, tunnel, linger, flush,
    instanceIdle, job, place
}

/// What a request has of a pool whose instances take only so many at a time.
enum PlaceState: UInt8, BitwiseCopyable { case none, held, awaited }

/// Fields stand in an order that leaves no gaps (bytes, words of four, of eight): an idle tunnel is mostly two of these.
struct Connection {
  enum Kind: UInt8, BitwiseCopyable { case free, client, instance }

  var kind = Kind.free
  /// Edge-triggered readiness: true until the kernel said would-block.
  var isReadable = false
  var isWritable = true
  /// It is registered with the poller.
  var isWatched = false
  /// EPOLLRDHUP came: read on to the end even after a short read, or a FIN behind data is lost.
  var peerEnds = false
  /// The end of input was read.
  var inputEnded = false
  /// Instances: connect(2) is under way. Clients: the connection lingers for the peer to read the last answer.
  var isConnecting = false
  var isLingering = false
  /// Instances: bytes came that no request asked for, so the connection is not used again.
  var isDirty = false
  /// Clients: the connection is a tunnel.
  var isTunnel = false
  /// shutdown(2) of our direction follows the last byte of `outbound`.
  var endsOutput = false
  var outputEnded = false
  /// Why the connection ends once everything is written.
  var closeReason = CloseReason.responseComplete
  /// Bytes moved since the last look: sessions measure idleness by it.
  var moved = false
  var isRemote = false
  /// log2 of the next piece's size.
  var pieceShift: UInt8 = 16
  var wait = Wait.none
  /// Clients: a listed peer's PROXY header has not come yet.
  var awaitsProxyHeader = false
  /// Clients: a listed proxy, whose word about its own clients is kept.
  var isTrusted = false
  /// Clients: the request has a place at its instance, or stands in line for one of `turnPool`.
  var place = PlaceState.none
  /// Clients: what Browser.close means on this tunnel.
  var browserClose = BrowserClose.none
  /// `inbound` is the beginning of a frame that has to be complete before it goes on.
  var heldFrames = false
  /// Clients: counted as waiting for a slot.
  var isWaiting = false
  /// Clients: what is written is sealed into TLS records here. False without TLS, and when the kernel does it.
  var seals = false

  /// The other side's descriptor, or -1.
  var peer: Int32 = -1
  /// Index of the instance in the worker's table, or -1 when it is known by address only.
  var instance: Int32 = -1
  /// Index of the session that this socket holds, or -1.
  var session: Int32 = -1
  /// Pipe that this connection's input is spliced through, or -1, and the bytes inside it.
  var pipe: Int32 = -1
  var pipeBytes: Int32 = 0
  /// Bytes of `inbound` that are the current request's head, kept for another attempt.
  var heldHead: Int32 = 0
  /// Bytes of `inbound` that are known to be a part of a head.
  var headLooked: Int32 = 0
  /// Bytes that the route takes off the path.
  var stripped: Int32 = 0
  /// Clients: index of the request's route in the table in force, or -1.
  var route: Int32 = -1
  /// Clients: their address.
  var address = SocketAddress()
  /// Clients: limits of time of the request's route.
  var waits = RouteWaits()
  /// Clients: the request's stay at an instance, and further below the pool whose balancer counts it.
  var turn = Turn()
  /// Clients: how much of the request's body may still come.
  var bodyRoom = UInt64.max
  /// Clients: when the request's body would have come too slowly if nothing of it had come (monotonic milliseconds); 0 = it
  /// may take its time, ``unmeasured`` = what comes from the next piece on counts.
  var bodyDue = 0
  static let unmeasured = Int.max
  var turnPool: PoolHandle?
  /// Clients: where the request carries its key, which ends here.
  var keyPlace = CredentialPlace.none
  /// Clients: the answer is to bring a sticky cookie.
  var setsCookie = false
  /// Clients: the answer may name a new job of its instance.
  var makesJob = false
  /// Clients: the connection counts for a route's limit.
  var hasPermit = false
  var permit = ClientCounter.Permit.none
  var permitKey: UInt64 = 0
  /// Clients: how far the frames of a tunnel whose Browser.close means something have been followed.
  var frames = ClientFrames()
  /// Asked of the coordinator; 0 = nothing.
  var ticket: UInt64 = 0
  /// Monotonic microseconds at which the request's head was complete.
  var requestStarted = 0
  /// When what is waited for should have come (monotonic milliseconds), and the links of the timer wheel.
  var deadline = 0
  var wheelNext: Int32 = -1
  var wheelPrevious: Int32 = -1
  var wheelSlot: Int32 = -1
  /// Links of an instance's list of kept connections.
  var idleNext: Int32 = -1
  var idlePrevious: Int32 = -1
  /// Bytes that the kernel still held for this client when a deadline passed last (tcp(7), SIOCOUTQ).
  var unsent = Int32.max

  var machine = ExchangeMachine(isTLS: false)
  var body = BodyState()
  var tls: TLSServerConnection?
  /// Read and not used yet.
  var inbound = Bytes()
  /// To be written when the socket takes more.
  var outbound = Bytes()

  /// Clients: what the access log will tell of the request under way.
  var story = RequestStory()
}

/// A client's request under way, as the access log and the labelled counters need it.
struct RequestStory: BitwiseCopyable {
  /// From a routed head to the end of its answer or tunnel.
  var isOpen = false
  var isLogged = false
  var text = AccessText.none
  var route = AccessRecord.noRow
  var pool = AccessRecord.noRow
  var instance = AccessRecord.noRow
  var status: UInt16 = 0
  var retries: UInt8 = 0
  var isReused = false
  var isSession = false
  var queueMicroseconds: Int32 = -1
  var connectMicroseconds: Int32 = -1
  var firstByteMicroseconds: Int32 = -1
  /// Monotonic microseconds at which the step that is measured now began.
  var stepStarted = 0
  var bytesFromClient: UInt64 = 0
  var bytesToClient: UInt64 = 0
  var instanceAddress = SocketAddress()
  var idHigh: UInt64 = 0
  var idLow: UInt64 = 0
}

/// Connections by descriptor. Memory is touched first when a descriptor is used first.
@safe struct Slab {
  private let base: UnsafeMutablePointer<Connection>
  private let generations: UnsafeMutablePointer<UInt32>
  private let highest: UnsafeMutablePointer<Int32>
  let capacity: Int

  init(capacity: Int) {
    self.capacity = capacity
    unsafe base = .allocate(capacity: capacity)
    unsafe generations = .allocate(capacity: capacity)
    unsafe generations.initialize(repeating: 0, count: capacity)
    unsafe highest = .allocate(capacity: 1)
    unsafe highest.initialize(to: 0)
  }

  /// Begins a connection's life and returns its generation, which tells its events from those of an earlier one.
  func open(_ fd: Int32, _ kind: Connection.Kind) -> UInt32 {
    precondition(fd >= 0 && Int(fd) < capacity, "descriptors stay below the limit that the slab was made for")
    unsafe (base + Int(fd)).initialize(to: Connection())
    unsafe base[Int(fd)].kind = kind
    unsafe generations[Int(fd)] &+= 1
    unsafe highest.pointee = max(unsafe highest.pointee, fd)
    return unsafe generations[Int(fd)]
  }

  /// Ends it; events that are still on their way find another generation.
  func close(_ fd: Int32) {
    self[fd].kind = .free
    unsafe generations[Int(fd)] &+= 1
  }

  /// All descriptors that were ever used here: what a look at every connection has to go through.
  var used: Range<Int32> { unsafe 0..<highest.pointee + 1 }

  func generation(_ fd: Int32) -> UInt32 { unsafe generations[Int(fd)] }

  @inline(__always) func isCurrent(_ fd: Int32, _ generation: UInt32) -> Bool {
    unsafe fd >= 0 && Int(fd) < capacity && generations[Int(fd)] == generation
  }

  @inline(__always) subscript(fd: Int32) -> Connection {
    @_transparent unsafeAddress {
      precondition(UInt32(bitPattern: fd) < UInt32(truncatingIfNeeded: capacity), "no such descriptor")
      return unsafe UnsafePointer(base + Int(fd))
    }
    @_transparent nonmutating unsafeMutableAddress {
      precondition(UInt32(bitPattern: fd) < UInt32(truncatingIfNeeded: capacity), "no such descriptor")
      return unsafe base + Int(fd)
    }
  }

  func free() {
    unsafe base.deallocate()
    unsafe generations.deallocate()
    unsafe highest.deallocate()
  }
}
