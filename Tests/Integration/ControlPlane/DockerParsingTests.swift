// What is said to an engine and understood of its answers, without one.
import Domain
import JSON
import Routing
import Runtimes
import Testing

@Suite struct DockerParsingTests {
  private func body(_ change: (inout ContainerSpec) -> Void = { _ in }, seccomp: String? = nil) throws -> JSON {
    var container = ContainerSpec(image: "berth/chrome")
    change(&container)
    let spec = PoolSpec(name: "chrome", kind: .cdp, runtime: .container(container), slots: 2)
    return ContainerRequest.body(
      LaunchPlan(id: "chrome-1", spec: spec, port: 50_007, generation: 3, host: "big"), container: container,
      seccomp: seccomp, owner: "prod",
      host: EngineHost(
        name: "big", endpoint: try #require(EngineEndpoint("unix:///s")), address: "10.0.0.7", bind: "10.0.0.8",
        portRange: 1...2),
      now: 99)
  }

  @Test func aContainerGetsNoMoreRightsThanItNeeds() throws {
    let config = try #require(try body()["HostConfig"])
    #expect(config["CapDrop"] == ["ALL"] && config["CapAdd"] == nil)
    #expect(config["SecurityOpt"] == ["no-new-privileges"])
    #expect(config["Init"] == true && config["PidsLimit"] == 1_024 && config["ShmSize"] == .int(1_024 << 20))
    #expect(config["Memory"] == .int(2_048 << 20) && config["MemorySwap"] == config["Memory"])
    #expect(config["NanoCpus"] == nil && config["Tmpfs"] == nil && config["NetworkMode"] == nil)
    #expect(config["ReadonlyRootfs"] == false && config["RestartPolicy"] == ["Name": "no"])
    #expect(config["PortBindings"] == ["9222/tcp": [["HostIp": "10.0.0.8", "HostPort": "50007"]]])
    #expect(config["LogConfig"] == ["Type": "json-file", "Config": ["max-size": "10m", "max-file": "1"]])
  }

  @Test func aSessionsOptionsFollowThePools() throws {
    var options = LaunchOptions()
    options.arguments = ["--x={id}"]
    options.timeZone = "Asia/Tokyo"
    var container = ContainerSpec(image: "berth/chrome")
    container.arguments = ["--y={id}"]
    container.environment = ["TZ": "UTC"]
    let spec = PoolSpec(name: "chrome", kind: .cdp, runtime: .container(container))
    let host = EngineHost(
      name: "big", endpoint: try #require(EngineEndpoint("unix:///s")), address: "10.0.0.7", bind: "10.0.0.8",
      portRange: 1...2)
    var records: [InstanceRecord] = []
    for options in [options, nil] {
      let body = ContainerRequest.body(
        LaunchPlan(id: "chrome-1", spec: spec, port: 1, host: "big", options: options), container: container,
        seccomp: nil, owner: "prod", host: host, now: 99)
      #expect(body["Cmd"] == (options == nil ? ["--y=chrome-1"] : ["--y=chrome-1", "--x={id}"]))
      let zone: JSON = options == nil ? "TZ=UTC" : "TZ=Asia/Tokyo"
      #expect(body["Env"]?.array?.contains(zone) == true)
      // Found again without Redis it is still not for anybody.
      let found: JSON = ["Id": "c", "Labels": try #require(body["Labels"])]
      records.append(try #require(ContainerRequest.record(of: found, address: "10.0.0.7")))
    }
    #expect(records.map { $0.session == nil } == [false, true])
  }

  @Test func whatIsDeclaredIsAskedFor() throws {
    let body = try body(
      {
        $0.arguments = ["--x={port}", "{id}"]
        $0.environment = ["A": "{id}-{port}"]
        $0.port = 3_000
        $0.milliCPUs = 1_500
        $0.memoryMegabytes = 0
        $0.tmpfs = ["/tmp": "size=1m", "/a": ""]
        $0.user = "7"
        $0.capabilities = ["SYS_NICE"]
        $0.network = "browsers"
        $0.logDriver = "journald"
        $0.logOptions = [:]
        $0.readOnly = true
      }, seccomp: "{}")
    #expect(
      body["Cmd"] == ["--x=3000", "chrome-1"] && body["User"] == "7" && body["ExposedPorts"] == ["3000/tcp": [:]])
    #expect(
      body["Env"]
        == ["A=chrome-1-3000", "BERTH_CONTAINER_PORT=3000", "BERTH_INSTANCE=chrome-1"])
    let config = try #require(body["HostConfig"])
    #expect(config["NanoCpus"] == 1_500_000_000 && config["Memory"] == nil && config["MemorySwap"] == nil)
    #expect(config["SecurityOpt"] == ["no-new-privileges", "seccomp={}"] && config["CapAdd"] == ["SYS_NICE"])
    #expect(config["Tmpfs"] == ["/tmp": "size=1m", "/a": ""] && config["ReadonlyRootfs"] == true)
    #expect(config["NetworkMode"] == "browsers" && config["LogConfig"] == ["Type": "journald", "Config": [:]])
  }

  @Test func aContainersLabelsTellItsRecord() throws {
    let entry: JSON = ["Id": "c0ffee", "Labels": try #require(try body()["Labels"])]
    let record = try #require(ContainerRequest.record(of: entry, address: "10.0.0.7"))
    #expect(
      record
        == InstanceRecord(
          id: "chrome-1", pool: "chrome", host: "10.0.0.7", port: 50_007, generation: 3, state: .ready, slots: 2,
          startedAt: 99, labels: ["host": "big", "runtime": "docker", "container": "c0ffee"]))
    #expect(ContainerRequest.record(of: ["Id": "x", "Labels": ["berth.instance": "a"]], address: "") == nil)
  }

  @Test(arguments: [
    ("chrome", "fromImage=chrome&tag=latest"), ("chrome:5", "fromImage=chrome&tag=5"),
    ("r.example:5000/a/b", "fromImage=r.example%3A5000%2Fa%2Fb&tag=latest"),
    ("r.example:5000/a/b:v1", "fromImage=r.example%3A5000%2Fa%2Fb&tag=v1"),
    ("a@sha256:77", "fromImage=a%40sha256%3A77"),
  ]) func aReferenceIsPulledByNameAndTag(_ image: String, _ query: String) {
    #expect(ContainerRequest.pullQuery(image) == query)
  }

  @Test func aPullsLinesAreAddedUp() throws {
    var progress = PullProgress()
    for line in [
      #"{"status":"Pulling from a","id":"latest"}"#,
      #"{"status":"Downloading","id":"l1","progressDetail":{"current":1048576,"total":4194304}}"#,
      #"{"status":"Downloading","id":"l2","progressDetail":{"current":2097152,"total":2097152}}"#,
      #"{"status":"Downloading","id":"l1","progressDetail":{"current":3145728,"total":4194304}}"#,
      #"{"status":"Extracting","id":"l2","progressDetail":{"current":9,"total":10}}"#,
    ] { progress.read(try JSON(parsing: Array(line.utf8))) }
    #expect(progress.downloadedMegabytes == 5 && progress.knownMegabytes == 6 && progress.failure == nil)
    progress.read(["error": "no space", "errorDetail": ["message": "no space left on device"]])
    #expect(progress.failure == "no space left on device")
  }

  @Test func versionsAreAgreedUpon() throws {
    func version(_ text: String) throws -> APIVersion { try #require(APIVersion(text)) }
    #expect(try APIVersion.agree(oldest: version("1.12"), newest: version("1.41")) == version("1.41"))
    #expect(try APIVersion.agree(oldest: version("1.24"), newest: version("1.99")) == version("1.47"))
    #expect(throws: EngineError.self) { try APIVersion.agree(oldest: version("1.12"), newest: version("1.40")) }
    #expect(throws: EngineError.self) { try APIVersion.agree(oldest: version("1.60"), newest: version("1.99")) }
    #expect(try version("1.9") < version("1.41"))
    #expect(APIVersion("1") == nil && APIVersion("1.x") == nil)
  }

  @Test(arguments: ["total_inactive_file", "inactive_file"]) func figuresLeaveOutWhatTheKernelGivesBack(_ name: String)
  {
    let stats: JSON = [
      "cpu_stats": ["cpu_usage": ["total_usage": 2_500_000_000]],
      "memory_stats": .object(["usage": 1_000, "stats": .object([name: 400])]), "pids_stats": ["current": 9],
    ]
    #expect(
      ProcessFigures(engineStats: stats) == ProcessFigures(cpuMilliseconds: 2_500, memoryBytes: 600, processes: 9))
    #expect(ProcessFigures(engineStats: ["memory_stats": [:]]) == nil)
  }

  @Test(arguments: [
    ("unix:///var/run/docker.sock", EngineEndpoint.unix(path: "/var/run/docker.sock")),
    ("tcp://10.0.0.7:2376", .tcp(host: "10.0.0.7", port: 2_376, tls: nil)),
    ("tcp://[::1]:2376", .tcp(host: "::1", port: 2_376, tls: nil)),
  ]) func endpointsAreReadAndWritten(_ text: String, _ endpoint: EngineEndpoint) {
    #expect(EngineEndpoint(text) == endpoint && endpoint.description == text)
  }

  @Test(arguments: ["", "unix://", "unix://a", "tcp://x", "tcp://:1", "tcp://x:0", "tcp://::1:5", "http://x:1"])
  func nonsenseIsNoEndpoint(_ text: String) { #expect(EngineEndpoint(text) == nil) }
}
