// The HTTP side of REST, on Hummingbird: reads a request, lets the handlers answer it, and writes JSON. Started by the
// daemon as one of its services.
package import Hummingbird
import HummingbirdCore
import JSON
package import Logging
import NIOCore
import Observability
import Supervisor

/// What comes with a request: its connection, which tells whether the client is still there.
package struct APIContext: RequestContext {
  package var coreContext: CoreRequestContextStorage
  fileprivate let channel: any Channel

  package init(source: ApplicationRequestContextSource) {
    coreContext = .init(source: source)
    channel = source.channel
  }
}

package struct APIResponder: HTTPResponder {
  package typealias Context = APIContext

  /// Longer bodies are refused with 413.
  package static let maximumBodyBytes = 65_536

  private static let idempotencyKey = HTTPFields.Element.Name("Idempotency-Key")!
  private static let fetchSite = HTTPFields.Element.Name("Sec-Fetch-Site")!
  private static let idempotencyReplayed = HTTPFields.Element.Name("Idempotency-Replayed")!

  private let handlers: Handlers
  private let authenticator: Authenticator
  private let pages: PageGuard
  private let beforeAnswer: @Sendable () async -> Void

  /// `beforeAnswer`: called when a session was made and before its client hears of it.
  package init(
    _ handlers: Handlers, _ authenticator: Authenticator, pages: PageGuard,
    beforeAnswer: @escaping @Sendable () async -> Void = {}
  ) {
    self.handlers = handlers
    self.authenticator = authenticator
    self.pages = pages
    self.beforeAnswer = beforeAnswer
  }

  package func respond(to request: Request, context: APIContext) async throws -> Response {
    let answer: Answer
    var delivery: Delivery?
    do throws(Refusal) {
      (answer, delivery) = try await self.answer(request, context)
    } catch {
      if error.status >= 500 {
        handlers.logger.warning(
          "request failed",
          metadata: [
            "method": "\(request.method)", "path": "\(request.uri.path)", "status": "\(error.status)",
            "error": "\(error.message)",
          ])
      } else {
        handlers.logger.info(
          "request refused",
          metadata: ["method": "\(request.method)", "status": "\(error.status)", "error": "\(error.message)"])
      }
      answer = error.answer
    }
    handlers.metrics.count { [status = answer.status] in
      $0.responses[min(max(status / 100, 0), $0.responses.count - 1)] += 1
    }
    return response(answer, delivery, to: request)
  }

  private func answer(_ request: Request, _ context: APIContext) async throws(Refusal) -> (Answer, Delivery?) {
    let match = APIRoute.match(method: request.method.rawValue, path: request.uri.path)
    var client: String?
    if case .route(let route) = match {
      if route.scope != nil {
        try pages.check(
          authority: request.head.authority, origin: request.headers[.origin], site: request.headers[Self.fetchSite])
      }
      client = try await authenticator.check(route, request)
    }
    switch match {
    case .notFound:
      throw Refusal(404, "there is nothing at \(request.uri.path); docs/rest.md lists the routes")
    case .methodNotAllowed(let methods):
      var refusal = Refusal(
        405, "\(request.method.rawValue) is not for \(request.uri.path); use \(methods.joined(separator: " or "))")
      refusal.headers["allow"] = methods.joined(separator: ", ")
      throw refusal
    case .route(.createSession): return try await create(request, context, client: client ?? "")
    case .route(.createKey):
      return (try await handlers.create(try KeyRequest(body: try await body(of: request))), nil)
    case .route(.changeInstance(let id)):
      return (try await handlers.change(id, try InstanceChange(body: try await body(of: request))), nil)
    case .route(.keepAlive(let id)):
      return (try await handlers.keepAlive(id, try KeepAliveRequest(body: try await body(of: request))), nil)
    case .route(.sessions):
      let settings = request.uri.queryParameters.map { (name: String($0.key), value: String($0.value)) }
      return (try await handlers.sessions(try SessionQuery(settings)), nil)
    case .route(let route):
      var query: [String: String] = [:]
      for (name, value) in request.uri.queryParameters { query[String(name)] = String(value) }
      return (try await handlers.answer(route, query: query), nil)
    }
  }

  private func create(
    _ request: Request, _ context: APIContext, client: String
  ) async throws(Refusal) -> (Answer, Delivery?) {
    let body = try await body(of: request)
    let key = try request.headers[Self.idempotencyKey].map { (text) throws(Refusal) in try IdempotencyKey(text) }
    let creation = try handlers.prepare(body, key: key, client: client)
    let line = try? await context.channel.pipeline.handler(type: HangUp.self).get()
    switch try await handlers.create(creation, clientHasGone: { line?.clientHasGone ?? false }) {
    case .replayed(let answer): return (answer, nil)
    case .session(let answer, let creation):
      let delivery = Delivery(over: line, of: context.channel) { [handlers] in
        handlers.logger.info(
          "the answer could not be delivered", metadata: ["session": "\(Handlers.short(creation.id))"])
        await handlers.cancel(creation)
      }
      await beforeAnswer()
      return (answer, delivery)
    }
  }

  private func body(of request: Request) async throws(Refusal) -> [UInt8] {
    let bytes: [UInt8]
    do {
      let buffer = try await request.body.collect(upTo: Self.maximumBodyBytes)
      bytes = Array(buffer.readableBytesView)
    } catch {
      throw Refusal(413, "the body is longer than \(Self.maximumBodyBytes) bytes")
    }
    if !bytes.isEmpty, let type = request.headers[.contentType] {
      let media = type.split(separator: ";").first.map { $0.lowercased().filter { $0 != " " } } ?? ""
      guard media == "application/json" else {
        throw Refusal(415, "the body must be application/json, not \(type)")
      }
    }
    return bytes
  }

  private func response(_ answer: Answer, _ delivery: Delivery?, to request: Request) -> Response {
    var headers = HTTPFields()
    headers[.contentType] = answer.metrics == nil ? "application/json; charset=utf-8" : MetricsText.contentType
    // Answers are of the moment, and some hold a session's secret.
    headers[.cacheControl] = "no-store"
    if let value = answer.headers["retry-after"] { headers[.retryAfter] = value }
    if let value = answer.headers["www-authenticate"] { headers[.wwwAuthenticate] = value }
    if let value = answer.headers["allow"] { headers[.allow] = value }
    if let value = answer.headers["idempotency-replayed"] { headers[Self.idempotencyReplayed] = value }
    let bytes = answer.metrics.map { Array($0.utf8) } ?? answer.json.bytes + [UInt8(ascii: "\n")]
    let status = HTTPResponse.Status(code: answer.status)
    if request.method == .head {
      headers[.contentLength] = String(bytes.count)
      return Response(status: status, headers: headers)
    }
    let buffer = ByteBuffer(bytes: bytes)
    guard let delivery else {
      return Response(status: status, headers: headers, body: ResponseBody(byteBuffer: buffer))
    }
    return Response(
      status: status, headers: headers,
      body: ResponseBody(contentLength: bytes.count) { writer in try await delivery.write(buffer, to: &writer) })
  }
}

/// The HTTP server of the REST API.
package struct APIServer: Sendable {
  private let application: Application<APIResponder>

  /// A connection whose next request does not come, or does not get on, for so long is closed. One that waits for its answer
  /// stays.
  package static let idleSeconds: Int64 = 15
  /// As many connections at a time; others wait in the backlog. What they take of the process's descriptors its leader
  /// cannot use for instances, so it is a quarter of them at most.
  private static let maximumConnections = 256

  /// - Parameters:
  ///   - idleSeconds: see ``idleSeconds``.
  ///   - descriptors: as many may this process have open.
  ///   - beforeAnswer: see ``APIResponder/init(_:beforeAnswer:)``.
  ///   - onListening: called once, when clients can connect.
  package init(
    _ handlers: Handlers, _ authenticator: Authenticator, pages: PageGuard, host: String, port: Int, descriptors: Int,
    idleSeconds: Int64 = idleSeconds, logger: Logger, beforeAnswer: @escaping @Sendable () async -> Void = {},
    onListening: @escaping @Sendable () async -> Void
  ) {
    application = Application(
      responder: APIResponder(handlers, authenticator, pages: pages, beforeAnswer: beforeAnswer),
      server: .http1(
        configuration: .init(additionalChannelHandlers: [HangUp()], idleTimeout: .seconds(idleSeconds))),
      configuration: ApplicationConfiguration(
        address: .hostname(host, port: port), serverName: nil, backlog: 1_024,
        availableConnectionsDelegate: MaximumAvailableConnections(
          max(1, min(Self.maximumConnections, descriptors / 4)), logger: logger)),
      onServerRunning: { _ in await onListening() }, logger: logger)
  }

  /// Serves until the graceful shutdown of the service group that it runs in.
  package func run() async throws { try await application.run() }
}
