// swift-tools-version: 6.2
// The rooms of Berth. Pure targets (JSON, Routing, State, HTTPWire, CDP, ProxyMachine, Domain, Reconciler)
// import the standard library and each other only; docs/ARCHITECTURE.md draws who may import whom.
import Foundation
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
  .enableExperimentalFeature("Lifetimes"),
]

func shared(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .target(name: name, dependencies: dependencies, path: "Sources/Shared/\(name)", swiftSettings: strict)
}
func data(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .target(name: name, dependencies: dependencies, path: "Sources/DataPlane/\(name)", swiftSettings: strict)
}
func control(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .target(name: name, dependencies: dependencies, path: "Sources/ControlPlane/\(name)", swiftSettings: strict)
}
func unitTests(of name: String, _ more: [Target.Dependency] = []) -> Target {
  .testTarget(
    name: "\(name)Tests", dependencies: [.byName(name: name)] + more, path: "Tests/Unit/\(name)Tests",
    swiftSettings: strict)
}

let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
let hummingbirdCore = Target.Dependency.product(name: "HummingbirdCore", package: "hummingbird")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let serviceLifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let unixSignals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")

let package = Package(
  name: "berth",
  products: [
    .executable(name: "berth", targets: ["berth"]),
    .executable(name: "berth-control", targets: ["berth-control"]),
    .executable(name: "berth-data", targets: ["berth-data"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.80.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
  ],
  targets: [
    // Shared: all that both planes know.
    .systemLibrary(name: "CHiredis", path: "Sources/Shared/CHiredis"),
    .target(
      name: "COpenSSL", path: "Sources/Shared/COpenSSL",
      linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]),
    .target(name: "CLinux", path: "Sources/Shared/CLinux"),
    shared("Posix", ["CLinux"]),
    shared("JSON"),
    shared("Routing", ["JSON"]),
    shared("RouteFiles", ["JSON", "Routing", yams]),
    shared("State", ["JSON", "Routing"]),
    shared("TLS", ["COpenSSL"]),
    shared("Redis", ["CHiredis", "TLS", "Posix", "State"]),
    shared("Observability", ["Posix", "JSON"]),

    // Data plane: a client's bytes.
    data("HTTPWire"),
    data("CDP", ["JSON"]),
    data("ProxyMachine", ["HTTPWire", "Routing"]),
    data(
      "RouteFeed",
      ["HTTPWire", "ProxyMachine", "RouteFiles", "Routing", "State", "Redis", "Posix", "JSON", "Observability"]),
    data("Balancing"),
    data(
      "Engine",
      ["Balancing", "HTTPWire", "CDP", "ProxyMachine", "Routing", "JSON", "Posix", "CLinux", "TLS", "Observability"]),
    .executableTarget(
      name: "berth-data",
      dependencies: [
        "Engine", "HTTPWire", "JSON", "Observability", "Posix", "ProxyMachine", "Redis", "RouteFeed", "Routing",
        "State", "TLS", argumentParser,
      ],
      path: "Sources/DataPlane/Daemon", swiftSettings: strict),

    // Control plane: instances and sessions.
    control("Domain", ["Routing"]),
    control("Settings", ["Domain", "JSON", "RouteFiles", "Routing", "TLS"]),
    control("Reconciler", ["Domain", "Routing"]),
    control("Runtimes", ["Domain", "Routing", "Posix", "CLinux", "JSON", "TLS", logging]),
    control(
      "Supervisor",
      ["Domain", "Settings", "Observability", "Reconciler", "Runtimes", "Routing", "State", "Redis", "Posix", logging]),
    control(
      "API",
      [
        "Domain", "JSON", "Observability", "Reconciler", "Redis", "Routing", "State", "Supervisor", "TLS", hummingbird,
        hummingbirdCore, logging, nioCore,
      ]),
    .executableTarget(
      name: "berth-control",
      dependencies: [
        "API", "Domain", "Settings", "Supervisor", "Runtimes", "Redis", "State", "Routing", "Observability", "Posix",
        argumentParser, logging, serviceLifecycle, unixSignals,
      ],
      path: "Sources/ControlPlane/Daemon", swiftSettings: strict),
    control("Launcher", ["CLinux", "JSON", "Posix", "Redis", "State", "TLS"]),
    .executableTarget(
      name: "berth", dependencies: ["Launcher", argumentParser], path: "Sources/ControlPlane/CLI",
      swiftSettings: strict),

    // Tests
    .target(
      name: "TestSupport", dependencies: ["Posix", "Redis", "State", "Routing", "JSON", "TLS"], path: "Tests/Support",
      swiftSettings: strict),
    unitTests(of: "JSON"),
    unitTests(of: "Routing", ["JSON"]),
    unitTests(of: "RouteFiles", ["Routing"]),
    unitTests(of: "Posix"),
    unitTests(of: "Observability", ["JSON", "Posix"]),
    unitTests(of: "HTTPWire"),
    unitTests(of: "CDP", ["JSON"]),
    unitTests(of: "ProxyMachine", ["HTTPWire", "Routing"]),
    unitTests(of: "Engine", ["HTTPWire", "JSON", "Observability", "Posix", "ProxyMachine", "Routing", "TestSupport"]),
    unitTests(of: "Balancing", ["TestSupport"]),
    .executableTarget(
      name: "balancing-benchmark", dependencies: ["Balancing"], path: "Tests/Benchmarks/Balancing",
      swiftSettings: strict),
    .target(
      name: "FuzzBodies", dependencies: ["HTTPWire", "ProxyMachine"], path: "Tests/Fuzz/Bodies", swiftSettings: strict),
    .testTarget(
      name: "FuzzReplayTests", dependencies: ["FuzzBodies", "TestSupport"], path: "Tests/Fuzz/Replay",
      swiftSettings: strict),
    unitTests(of: "Domain", ["Routing"]),
    unitTests(of: "Settings", ["Domain", "Routing"]),
    unitTests(of: "Reconciler", ["Domain", "Routing"]),
    unitTests(of: "Supervisor", ["Observability", "Redis", "Routing", "Runtimes"]),
    unitTests(of: "Launcher", ["JSON"]),
    // By plane, so that a change of one builds only its own tests anew.
    .testTarget(
      name: "SharedTests",
      dependencies: ["JSON", "Posix", "Redis", "Routing", "State", "TLS", "TestSupport"],
      path: "Tests/Integration/Shared", swiftSettings: strict),
    .testTarget(
      name: "DataPlaneTests",
      dependencies: [
        "COpenSSL", "Engine", "HTTPWire", "JSON", "Observability", "Posix", "ProxyMachine", "Redis", "RouteFeed",
        "RouteFiles", "Routing", "State", "TLS", "TestSupport",
      ],
      path: "Tests/Integration/DataPlane", swiftSettings: strict),
    .testTarget(
      name: "ControlPlaneTests",
      dependencies: [
        "API", "Domain", "JSON", "Posix", "Reconciler", "Redis", "Routing", "Runtimes", "State", "Supervisor", "TLS",
        "TestSupport", logging,
      ],
      path: "Tests/Integration/ControlPlane", swiftSettings: strict),
    .testTarget(
      name: "SimulationTests", dependencies: ["Domain", "Reconciler", "Redis", "Routing", "State", "TestSupport"],
      path: "Tests/Simulation", swiftSettings: strict),
    .testTarget(
      name: "EndToEndTests",
      dependencies: ["CLinux", "TestSupport", "Redis", "State", "Routing", "JSON", "Posix", "TLS"],
      path: "Tests/EndToEnd", exclude: ["clients"], swiftSettings: strict),
  ]
)

// scripts/sanitize builds the data plane and its tests without the control plane and its packages, in a fraction of the
// time: a sanitizer's build shares nothing with the ordinary one.
if Context.environment["BERTH_DATA_PLANE_ONLY"] != nil {
  var left = Set(package.targets.filter { ($0.path ?? "").hasPrefix("Sources/ControlPlane/") }.map(\.name))
  left.formUnion(left.map { $0 + "Tests" } + ["ControlPlaneTests", "EndToEndTests", "SharedTests", "SimulationTests"])
  package.targets.removeAll { left.contains($0.name) }
  package.products.removeAll { left.contains($0.name) }
  let folder = Context.packageDirectory + "/Tests/Integration/DataPlane"
  for target in package.targets where target.name == "DataPlaneTests" {
    let files = try! FileManager.default.contentsOfDirectory(atPath: folder)
    target.sources = files.filter { $0.contains(/^(Engine|HTTPPolicy|TLS)/) }.sorted()
    target.dependencies = [
      "COpenSSL", "Engine", "HTTPWire", "JSON", "Observability", "Posix", "ProxyMachine", "Redis", "Routing", "TLS",
      "TestSupport",
    ]
  }
}
