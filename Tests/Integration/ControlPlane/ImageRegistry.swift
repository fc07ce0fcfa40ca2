// A registry of container images on loopback, which engines reach without TLS, with one small image made from scratch: a
// static program that answers HTTP. As much of the registry's protocol (Docker Registry HTTP API V2) as a pull needs.
import Foundation
import Glibc
import JSON
import Posix
import Synchronization
import TestSupport

final class ImageRegistry: Sendable {
  /// What a pool names.
  let image: String
  private let name = "tiny/server"
  private let listener: Int32
  private let manifest: [UInt8]
  private let manifestDigest: String
  private let blobs: [String: [UInt8]]
  private let asked = Mutex<[String]>([])
  /// Nothing of the image is given before.
  private let isOpen = Mutex(true)

  private static let source = #"""
    #include <netinet/in.h>
    #include <sys/socket.h>
    #include <unistd.h>
    int main(void) {
      static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n";
      int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
      struct sockaddr_in all = {.sin_family = AF_INET, .sin_port = htons(9222)};
      setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      if (bind(listener, (struct sockaddr *)&all, sizeof all) || listen(listener, 64)) return 1;
      for (;;) {
        char request[4096];
        int client = accept(listener, 0, 0);
        if (client < 0) continue;
        if (read(client, request, sizeof request) > 0 && write(client, answer, sizeof answer - 1) < 0) return 2;
        close(client);
      }
    }
    """#

  /// - Parameter directory: where the image is made.
  init(in directory: String) throws {
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    try Self.source.write(toFile: directory + "/server.c", atomically: true, encoding: .utf8)
    let script = """
      set -e; cd "\(directory)"
      "$(command -v clang || command -v cc)" -static -O1 -o server server.c
      tar --owner=0 --group=0 -cf layer.tar server; gzip -nk layer.tar
      """
    let (status, out) = try ContainerEngine.run("bash", ["-c", script])
    guard status == 0 else { throw FixtureError("no image: \(out)") }
    func file(_ name: String) throws -> (bytes: [UInt8], digest: String) {
      let (status, out) = try ContainerEngine.run("sha256sum", [directory + "/" + name])
      guard status == 0 else { throw FixtureError("no digest: \(out)") }
      return (
        Array(try Data(contentsOf: URL(fileURLWithPath: directory + "/" + name))), "sha256:" + out.prefix { $0 != " " }
      )
    }
    let layer = try file("layer.tar.gz")
    #if arch(arm64)
      let architecture = "arm64"
    #else
      let architecture = "amd64"
    #endif
    let config: JSON = [
      "architecture": .string(architecture), "os": "linux", "config": ["Entrypoint": ["/server"]],
      "rootfs": ["type": "layers", "diff_ids": [.string(try file("layer.tar").digest)]],
    ]
    try config.text.write(toFile: directory + "/config", atomically: true, encoding: .utf8)
    let configured = try file("config")
    func descriptor(_ type: String, _ blob: (bytes: [UInt8], digest: String)) -> JSON {
      ["mediaType": .string(type), "size": .int(blob.bytes.count), "digest": .string(blob.digest)]
    }
    let manifest: JSON = [
      "schemaVersion": 2, "mediaType": .string(Self.manifestType),
      "config": descriptor("application/vnd.docker.container.image.v1+json", configured),
      "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
    ]
    try manifest.text.write(toFile: directory + "/manifest", atomically: true, encoding: .utf8)
    (self.manifest, manifestDigest) = try file("manifest")
    blobs = [configured.digest: configured.bytes, layer.digest: layer.bytes]

    let port = try unusedPort()
    image = "127.0.0.1:\(port)/\(name):1"
    listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let bound = unsafe withUnsafePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(listener, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard bound == 0, listen(listener, 16) == 0 else { throw FixtureError("no registry at port \(port)") }
    _ = Thread.start("registry") { [self] in
      while true {
        let client = accept(listener, nil, nil)
        guard client >= 0 else { return }
        _ = Thread.start("registry-client") { [self] in serve(Peer(fd: client)) }
      }
    }
  }

  private static let manifestType = "application/vnd.docker.distribution.manifest.v2+json"

  /// Ends the thread, which holds the registry alive.
  func close() {
    shutdown(listener, Int32(SHUT_RDWR))
    Glibc.close(listener)
  }

  /// From now on there is no such image, or there is one again.
  func setOpen(_ open: Bool) { isOpen.withLock { $0 = open } }

  /// How often a layer was fetched.
  var layerPulls: Int { asked.withLock { $0.count { $0.hasPrefix("GET ") && $0.contains("/blobs/") } } / 2 }

  private func serve(_ client: Peer) {
    guard let first = client.receive(), !first.isEmpty else { return }
    // Engines try TLS first, and plain HTTP when what answers is none.
    guard first[0] != 0x16 else { return client.send("HTTP/1.0 400 Bad Request\r\n\r\n") }
    let words = String(decoding: first, as: UTF8.self).split(separator: " ").prefix(2).map(String.init)
    guard words.count == 2 else { return }
    asked.withLock { $0.append(words.joined(separator: " ")) }
    let path = words[1]
    var body: [UInt8] = []
    var type = "application/octet-stream"
    var digest = ""
    if path.hasPrefix("/v2/\(name)/manifests/"), isOpen.withLock({ $0 }) {
      (body, type, digest) = (manifest, Self.manifestType, manifestDigest)
    } else if path.hasPrefix("/v2/\(name)/blobs/"), let blob = blobs[String(path.split(separator: "/").last ?? "")] {
      body = blob
    } else if path != "/v2/" {
      let missing = #"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#
      return client.send(
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: \(missing.utf8.count)\r\n"
          + "Connection: close\r\n\r\n" + (words[0] == "HEAD" ? "" : missing))
    }
    client.send(
      "HTTP/1.1 200 OK\r\nContent-Type: \(type)\r\nContent-Length: \(body.count)\r\nConnection: close\r\n"
        + (digest.isEmpty ? "" : "Docker-Content-Digest: \(digest)\r\n")
        + "Docker-Distribution-Api-Version: registry/2.0\r\n\r\n")
    if words[0] != "HEAD" { client.send(body) }
  }
}
