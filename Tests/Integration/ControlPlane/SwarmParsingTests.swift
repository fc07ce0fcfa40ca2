// What is said to a swarm and understood of its answers, without one.
import Domain
import JSON
import Routing
import Runtimes
import Testing

@Suite struct SwarmRequestTests {
  private func body(
    _ change: (inout ServiceSpec) -> Void = { _ in }, seccomp: String? = nil, version: String = "1.41"
  ) throws -> JSON {
    var service = ServiceSpec(container: ContainerSpec(image: "berth/chrome"))
    change(&service)
    var spec = PoolSpec(name: "chrome", kind: .cdp, runtime: .service(service), slots: 2)
    spec.stopGraceMilliseconds = 1_500
    return ServiceRequest.body(
      LaunchPlan(id: "chrome-1", spec: spec, port: 50_007, generation: 3, host: "swarm"), service: service,
      seccomp: seccomp, version: try #require(APIVersion(version)), owner: "prod", swarm: "swarm", now: 99)
  }

  @Test func aServiceHasOneTaskThatSwarmNeverStartsAgain() throws {
    let body = try body()
    #expect(body["Name"] == "berth-prod-chrome-1" && body["Mode"] == ["Replicated": ["Replicas": 1]])
    let template = try #require(body["TaskTemplate"])
    #expect(template["RestartPolicy"] == ["Condition": "none"] && template["Placement"] == nil)
    #expect(
      body["EndpointSpec"]?["Ports"]
        == [["Protocol": "tcp", "PublishMode": "host", "PublishedPort": 50_007, "TargetPort": 9_222]])
    let container = try #require(template["ContainerSpec"])
    #expect(container["Labels"] == body["Labels"] && body["Labels"]?["berth.generation"] == "3")
    #expect(container["Init"] == true && container["CapabilityDrop"] == ["ALL"] && container["CapabilityAdd"] == nil)
    #expect(container["StopGracePeriod"] == 1_500_000_000 && container["Privileges"] == nil)
    #expect(
      container["Mounts"]
        == [["Type": "tmpfs", "Target": "/dev/shm", "TmpfsOptions": ["SizeBytes": 1_073_741_824, "Mode": 1_023]]])
    #expect(
      template["Resources"]
        == ["Limits": ["Pids": 1_024, "MemoryBytes": 2_147_483_648], "Reservations": ["MemoryBytes": 2_147_483_648]])
  }

  @Test func whatIsDeclaredIsAskedFor() throws {
    let body = try body {
      $0.container.arguments = ["--x={port}"]
      $0.container.milliCPUs = 1_500
      $0.container.user = "7"
      $0.container.capabilities = ["SYS_NICE"]
      $0.container.network = "browsers"
      $0.container.logDriver = "journald"
      $0.container.logOptions = [:]
      $0.container.tmpfs = ["/tmp": "size=1m,mode=1777", "/a": ""]
      $0.constraints = ["node.labels.browsers==true"]
      $0.reservedMegabytes = 0
      $0.reservedMilliCPUs = 250
    }
    let template = try #require(body["TaskTemplate"])
    let container = try #require(template["ContainerSpec"])
    #expect(container["Args"] == ["--x=9222"] && container["User"] == "7" && container["CapabilityAdd"] == ["SYS_NICE"])
    #expect(
      container["Mounts"]?.array?.dropFirst().map { $0 } == [
        ["Type": "tmpfs", "Target": "/a", "TmpfsOptions": [:]],
        ["Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": ["SizeBytes": 1_048_576, "Mode": 1_023]],
      ])
    #expect(template["Placement"] == ["Constraints": ["node.labels.browsers==true"]])
    #expect(template["Networks"] == [["Target": "browsers"]])
    #expect(template["LogDriver"] == ["Name": "journald", "Options": [:]])
    #expect(template["Resources"]?["Limits"]?["NanoCPUs"] == 1_500_000_000)
    #expect(template["Resources"]?["Reservations"] == ["NanoCPUs": 250_000_000])
  }

  @Test func newEnginesLetServicesGoWithoutNewPrivileges() throws {
    func privileges(_ seccomp: String?) throws -> JSON? {
      try body(seccomp: seccomp, version: "1.44")["TaskTemplate"]?["ContainerSpec"]?["Privileges"]
    }
    #expect(try privileges(nil) == ["NoNewPrivileges": true])
    #expect(try privileges("unconfined") == ["NoNewPrivileges": true, "Seccomp": ["Mode": "unconfined"]])
    #expect(try privileges("{}") == ["NoNewPrivileges": true, "Seccomp": ["Mode": "custom", "Profile": "e30="]])
  }

  @Test(arguments: [
    ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("\u{FB}\u{FF}", "w7vDvw=="),
  ])
  func base64IsThatOfTheStandard(_ text: String, _ encoded: String) {
    #expect(ServiceRequest.base64(Array(text.utf8)) == encoded)
  }
}

private func task(
  _ state: String, error: String? = nil, code: Int? = nil
) throws -> SwarmTask {
  var status: JSONObject = ["State": .string(state)]
  if let error { status["Err"] = .string(error) }
  if let code { status["ContainerStatus"] = ["ExitCode": .int(code), "ContainerID": "c1"] }
  let entry: JSONObject = [
    "ID": "t1", "ServiceID": "s1", "NodeID": "n1", "DesiredState": "running", "Status": .object(status),
    "Spec": [
      "ContainerSpec": ["Labels": ["berth.instance": "web-1"]],
      "Resources": ["Limits": ["MemoryBytes": 1_024, "NanoCPUs": 1_500_000_000]],
    ],
  ]
  return try #require(SwarmTask(.object(entry)))
}

private func node(_ state: String, status: String = "10.0.0.7", manager: String? = nil) throws -> SwarmNode {
  var entry: JSONObject = [
    "ID": "n1", "Description": ["Hostname": "big"], "Status": ["State": .string(state), "Addr": .string(status)],
  ]
  if let manager { entry["ManagerStatus"] = ["Addr": .string(manager)] }
  return try #require(SwarmNode(.object(entry)))
}

@Suite struct SwarmAnswerTests {
  @Test func aTaskSaysHowItEnded() throws {
    func exit(_ state: String, _ error: String? = nil, _ code: Int? = nil) throws -> InstanceExit? {
      try task(state, error: error, code: code).exit(node: "big")
    }
    for state in ["new", "pending", "assigned", "preparing", "starting", "running"] { #expect(try exit(state) == nil) }
    #expect(try exit("complete", nil, 0) == InstanceExit(status: 0))
    #expect(
      try exit("failed", "task: non-zero exit (137)", 137)
        == InstanceExit(status: 137, reason: "its container exited with status 137"))
    #expect(
      try exit("failed", "task: non-zero exit (7): worn", 7)?.reason == "its container exited with status 7: worn")
    #expect(
      try exit("failed", "starting container failed: x", 128)
        == InstanceExit(reason: "its task failed on node big: starting container failed: x"))
    #expect(try exit("rejected", "No such image: a")?.reason == "node big refused its task: No such image: a")
    for state in ["shutdown", "orphaned", "remove"] {
      #expect(try exit(state)?.reason?.hasPrefix("Swarm ended its task (node big was drained") == true)
    }
    #expect(SwarmTask(["ID": "t", "ServiceID": "s", "Status": ["State": "running"]]) == nil)
    let running = try task("running", code: 0)
    #expect(running.container == "c1" && running.memoryBytes == 1_024 && running.milliCPUs == 1_500)
  }

  @Test(arguments: [
    ("no suitable node (insufficient resources on 3 nodes)", LaunchFailure.Cause.noRoom),
    ("no suitable node (scheduling constraints not satisfied on 3 nodes)", .noRoom),
    ("no suitable node (insufficient resources on 1 node; host-mode port already in use on 1 node)", .portTaken),
    ("starting container failed: … listen tcp4 0.0.0.0:50020: bind: address already in use", .portTaken),
    ("Bind for 0.0.0.0:1 failed: port is already allocated", .portTaken), ("No such image: a", .other),
  ]) func refusalsAreUnderstood(_ words: String, _ cause: LaunchFailure.Cause) {
    #expect(SwarmRefusal.cause(words) == cause)
  }

  @Test(
    arguments: [
      ("10.0.0.7", nil, "10.0.0.7"), ("0.0.0.0", "10.0.0.8:2377", "10.0.0.8"), ("", "[fd00::7]:2377", "fd00::7"),
      ("0.0.0.0", nil, nil), ("::", "0.0.0.0:2377", nil), ("10.0.0.7", "10.0.0.9:2377", "10.0.0.7"),
    ] as [(String, String?, String?)])
  func aNodesAddressIsTheOneThatSaysSomething(_ status: String, _ manager: String?, _ address: String?) throws {
    #expect(try node("ready", status: status, manager: manager).address == address)
  }

  @Test func aTaskThatIsGoneFromTheListHasEnded() throws {
    var picture = SwarmPicture()
    picture.expect("s1", instance: "web-1")
    // Its task is not made yet.
    #expect(picture.see(tasks: [], before: ["s1"]).isEmpty && picture.services["s1"]?.exit == nil)
    #expect(picture.see(tasks: [try task("running")], before: ["s1"]).isEmpty)
    #expect(picture.holds(instance: "web-1", service: nil, now: 0, graceMilliseconds: 0))
    // One that somebody waits for although nothing was ever seen of it is gone too.
    #expect(picture.see(tasks: [], before: ["s1", "s9"]).keys.sorted() == ["s1", "s9"])
    #expect(picture.services.isEmpty && !picture.holds(instance: "web-1", service: nil, now: 0, graceMilliseconds: 0))
  }

  @Test func anEndIsToldOnceAndKept() throws {
    var picture = SwarmPicture()
    _ = picture.see(tasks: [try task("running")], before: [])
    let ended = picture.see(tasks: [try task("failed", code: 3)], before: ["s1"])
    #expect(ended["s1"]?.status == 3 && picture.services["s1"]?.exit?.status == 3)
    #expect(picture.see(tasks: [try task("failed", code: 3)], before: ["s1"]).isEmpty)
    // When the service goes later, those who ask only then hear the same.
    #expect(picture.see(tasks: [], before: ["s1"])["s1"]?.status == 3)
  }

  @Test func aNodeThatIsDownIsWaitedForFromWhenItWasSeen() throws {
    var picture = SwarmPicture()
    _ = picture.see(tasks: [try task("running")], before: [])
    picture.see(nodes: [try node("down")], now: 1_000)
    picture.see(nodes: [try node("down")], now: 2_000)
    #expect(picture.giveUp(now: 2_999, graceMilliseconds: 2_000).isEmpty)
    #expect(picture.holds(instance: "web-1", service: nil, now: 2_999, graceMilliseconds: 2_000))
    // A moment of life begins it anew; a change of leaders makes nodes unknown, not down.
    picture.see(nodes: [try node("unknown")], now: 2_999)
    picture.see(nodes: [try node("down")], now: 3_000)
    #expect(picture.giveUp(now: 4_999, graceMilliseconds: 2_000).isEmpty)
    let ended = picture.giveUp(now: 5_000, graceMilliseconds: 2_000)
    #expect(ended["s1"]?.reason == "its node big has been down for 2 seconds")
    #expect(picture.giveUp(now: 5_000, graceMilliseconds: 2_000).isEmpty)
    #expect(!picture.holds(instance: "web-1", service: nil, now: 5_000, graceMilliseconds: 2_000))
  }

  @Test func aNodeThatIsNotListedAnyMoreIsDown() throws {
    var picture = SwarmPicture()
    _ = picture.see(tasks: [try task("running")], before: [])
    picture.see(nodes: [], now: 10)
    #expect(
      !picture.isGone("n1", now: 19, graceMilliseconds: 10) && picture.isGone("n1", now: 20, graceMilliseconds: 10))
    #expect(
      !picture.isGone("n2", now: 20, graceMilliseconds: 10) && !picture.isGone(nil, now: 20, graceMilliseconds: 0))
  }
}
