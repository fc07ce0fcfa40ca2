// When a control plane counts as short of descriptors, and when it lets others lead: the rule alone.
import Supervisor
import Testing

/// For `#expect`, which takes no mutating calls.
private final class Watched {
  private var watch = DescriptorWatch()
  var isShort: Bool { watch.isShort }
  @discardableResult func look(hasRoom: Bool, at now: Int) -> DescriptorWatch.Change {
    watch.look(hasRoom: hasRoom, at: now)
  }
  func givesUp(at now: Int) -> Bool { watch.givesUp(at: now) }
}

@Suite struct DescriptorWatchTests {
  private let short = DescriptorWatch.shortAfterMilliseconds

  @Test func onlyARowOfFailuresCounts() {
    let watch = Watched()
    #expect(watch.look(hasRoom: false, at: 1_000) == .none)
    #expect(watch.look(hasRoom: false, at: 1_000 + short - 1) == .none)
    // One that worked: the row begins anew.
    #expect(watch.look(hasRoom: true, at: 1_000 + short) == .none)
    #expect(watch.look(hasRoom: false, at: 10_000) == .none)
    #expect(watch.look(hasRoom: false, at: 10_000 + short - 1) == .none && !watch.isShort)
    #expect(watch.look(hasRoom: false, at: 10_000 + short) == .short && watch.isShort)
    // It is said once.
    #expect(watch.look(hasRoom: false, at: 20_000) == .none && watch.isShort)
    #expect(watch.look(hasRoom: true, at: 20_001) == .recovered && !watch.isShort)
    #expect(watch.look(hasRoom: true, at: 20_002) == .none)
  }

  @Test func theLeadIsGivenUpOnceInAWhile() {
    let watch = Watched()
    #expect(!watch.givesUp(at: 0))
    watch.look(hasRoom: false, at: 0)
    #expect(!watch.givesUp(at: 1))
    watch.look(hasRoom: false, at: short)
    #expect(watch.givesUp(at: short))
    // Nobody else took it: it leads on as well as it can.
    #expect(!watch.givesUp(at: short + 1))
    #expect(!watch.givesUp(at: short + DescriptorWatch.againMilliseconds - 1))
    #expect(watch.givesUp(at: short + DescriptorWatch.againMilliseconds))
    // Also when it was well in between: the lead must not go to and fro.
    watch.look(hasRoom: true, at: 70_000)
    #expect(!watch.givesUp(at: 200_000))
    watch.look(hasRoom: false, at: 80_000)
    watch.look(hasRoom: false, at: 80_000 + short)
    #expect(!watch.givesUp(at: 80_000 + short))
  }
}
