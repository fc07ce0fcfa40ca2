// What a pool lets its clients ask of their browsers.
import Domain
import Routing
import Testing

@Suite struct LaunchPolicyTests {
  private func pool(_ policy: LaunchPolicy = LaunchPolicy(), _ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec
  {
    var spec = PoolSpec(name: "p", kind: .cdp, runtime: .process(ProcessSpec()))
    spec.launches = policy
    change(&spec)
    return spec
  }
  private func options(_ arguments: String...) -> LaunchOptions {
    var options = LaunchOptions()
    options.arguments = arguments
    return options
  }

  @Test func onlyListedArgumentsAreAllowed() {
    let policy = LaunchPolicy(arguments: ["--mute-audio", "--blink-settings=*", "--mode=fast"])
    for allowed in ["--mute-audio", "--blink-settings=a=b,c", "--blink-settings=", "--mode=fast"] {
      #expect(policy.allows(allowed), "\(allowed)")
    }
    for refused in [
      "--mute-audio=1", "--mute-audio ", "--blink-settings", "--blink-settingsx=1", "--mode=slow", "mute-audio", "",
      "--user-data-dir=/x", "--mode=*",
    ] { #expect(!policy.allows(refused), "\(refused)") }
    #expect(pool(policy).refusal(of: options("--mute-audio", "--mode=fast")) == nil)
    #expect(
      pool(policy).refusal(of: options("--mute-audio", "--x"))
        == "\"launch.args\": pool \"p\" does not allow \"--x\"; allowed: --mute-audio, --blink-settings=*, --mode=fast")
    #expect(pool().refusal(of: options("--x"))?.hasSuffix("allowed: none") == true)
  }

  @Test(
    arguments: LaunchPolicy.reserved + [
      "--user-data-dir=*", "--remote-debugging-port=1", "mute", "--", "--*", "--a*=1",
    ])
  func someArgumentsAreNeverLeftToClients(entry: String) {
    #expect(LaunchPolicy.objection(to: entry) != nil)
  }

  @Test func othersAre() {
    for entry in ["--mute-audio", "--lang=*", "--typeface=x", "--disable-features=A,B"] {
      #expect(LaunchPolicy.objection(to: entry) == nil, "\(entry)")
    }
  }

  @Test func howManyThereMayBe() {
    #expect(pool().tailoredLimit == 4)
    #expect(pool { $0.max = 1 }.tailoredLimit == 1)
    #expect(pool { $0.max = 5 }.tailoredLimit == 3)
    #expect(pool(LaunchPolicy(instances: 2)).tailoredLimit == 2)
    #expect(pool(LaunchPolicy(instances: 20)).tailoredLimit == 8)
    #expect(pool(LaunchPolicy(instances: 0)).tailoredLimit == 0)
    #expect(pool { $0.slots = 2 }.tailoredLimit == 0)
    #expect(pool { $0.kind = .vnc }.tailoredLimit == 0)
    #expect(pool { $0.runtime = .container(ContainerSpec(image: "i")) }.tailoredLimit == 4)
    #expect(pool { $0.runtime = .fixed(FixedSpec(servers: [])) }.tailoredLimit == 0)
  }

  @Test func whatCannotBeHadIsRefusedInASentence() {
    var snapshot = LaunchOptions()
    snapshot.snapshot = "shop"
    #expect(pool().refusal(of: snapshot) == "\"launch.snapshot\": pool \"p\" has no snapshots")
    #expect(pool(LaunchPolicy(snapshots: "/s")).refusal(of: snapshot) == nil)
    for spec in [pool(LaunchPolicy(instances: 0)), pool { $0.slots = 2 }, pool { $0.kind = .http }] {
      #expect(spec.refusal(of: LaunchOptions())?.hasPrefix("pool \"p\" takes no launch options: ") == true)
    }
  }

  private func pool(_ change: (inout PoolSpec) -> Void) -> PoolSpec { pool(LaunchPolicy(), change) }
}
