// How busy instances are, from two measurements of what they have used.
import Routing
import Runtimes
import Supervisor
import Testing

@Suite struct LoadMeterTests {
  private func used(_ cpu: Int, _ memory: Int = 0) -> ProcessFigures {
    ProcessFigures(cpuMilliseconds: cpu, memoryBytes: memory, processes: 1)
  }
  private func load(_ cpu: Double, _ memory: Double) -> InstanceLoad {
    InstanceLoad(cpuPercent: cpu, memoryPercent: memory)
  }

  @Test("the load is what was used since the last measurement")
  func difference() {
    var meter = LoadMeter(memoryBytes: 1_000)
    #expect(meter.loads(of: ["a": used(70_000, 100)], at: 5_000) == nil, "one measurement says nothing yet")
    #expect(
      meter.loads(of: ["a": used(71_000, 250), "b": used(9)], at: 10_000) == ["a": load(20, 25)],
      "1 s of 5 s, a quarter of the memory")
    #expect(
      meter.loads(of: ["a": used(71_000, 2_000), "b": used(20_009)], at: 20_000)
        == ["a": load(0, 100), "b": load(200, 0)],
      "two processors of b were busy; no more memory than there is")
  }

  @Test("processes that ended do not make a load negative, and a gone instance is forgotten")
  func less() {
    var meter = LoadMeter(memoryBytes: 1_000)
    _ = meter.loads(of: ["a": used(5_000), "b": used(0)], at: 0)
    #expect(meter.loads(of: ["a": used(10)], at: 1_000) == ["a": load(0, 0)])
    #expect(meter.loads(of: ["a": used(510), "b": used(500)], at: 2_000) == ["a": load(50, 0)])
  }

  @Test("an instance with limits of its own uses a share of those")
  func limits() {
    var meter = LoadMeter(memoryBytes: 1_000)
    var small = used(0, 100)
    small.memoryLimitBytes = 200
    small.milliCPULimit = 500
    var large = used(0, 100)
    large.memoryLimitBytes = 5_000
    large.milliCPULimit = 4_000
    _ = meter.loads(of: ["small": small, "large": large], at: 0)
    small.cpuMilliseconds = 250
    large.cpuMilliseconds = 1_000
    #expect(
      meter.loads(of: ["small": small, "large": large], at: 1_000) == ["small": load(50, 50), "large": load(25, 10)],
      "a limit above what the host has is none")
  }

  @Test("when all are gone there are no loads, which is not the same as not knowing")
  func gone() {
    var meter = LoadMeter(memoryBytes: 1_000)
    #expect(meter.loads(of: [:], at: 0) == nil)
    _ = meter.loads(of: ["a": used(5)], at: 1)
    #expect(meter.loads(of: [:], at: 2) == [:])
    #expect(meter.loads(of: [:], at: 3) == nil)
  }

  @Test("two measurements of one moment say nothing")
  func sameMoment() {
    var meter = LoadMeter(memoryBytes: 0)
    _ = meter.loads(of: ["a": used(1)], at: 7)
    #expect(meter.loads(of: ["a": used(2)], at: 7) == [:])
    #expect(meter.loads(of: ["a": used(12)], at: 17) == ["a": load(100, 0)])
  }
}
