// The parts of the balancer by themselves, against simple models.
import TestSupport
import Testing

@testable import Balancing

@Suite struct PartTests {
  @Test func heapAgainstASortedList() {
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "heap"))
    let starts: [UInt64] = [0, UInt64.max - 500, 1 << 63]
    for start in starts {
      var heap = MemberHeap()
      heap.reset(count: 200)
      var model: [Int: MemberHeap.Entry] = [:]
      // Keys are distances from a moving time, which wraps around.
      for step in 0..<4_000 {
        let member = random.below(200)
        let key = start &+ UInt64(step / 4) &+ UInt64(random.below(50))
        let entry = MemberHeap.Entry(key: key, order: UInt64(random.below(4)), member: Int32(member))
        if model[member] == nil {
          heap.insert(entry)
          model[member] = entry
        } else if random.chance(50) {
          heap.update(member, key: key, order: entry.order)
          model[member] = entry
        } else {
          heap.remove(member)
          model[member] = nil
        }
        // Taking out who may not be in it does no harm.
        heap.remove(199)
        model[199] = nil
        let sorted = model.values.sorted { $0.precedes($1) }
        #expect(heap.count == model.count)
        #expect(heap.violation == nil)
        guard let top = heap.top else { continue }
        #expect(top.key == sorted[0].key && top.order == sorted[0].order)
        #expect(heap.top(except: -1)!.member == top.member)
        guard sorted.count > 1, let second = heap.top(except: top.member) else { continue }
        #expect(second.key == sorted[1].key && second.order == sorted[1].order)
        #expect(second.member != top.member)
      }
    }
    var one = MemberHeap()
    #expect(one.top == nil && one.top(except: 0) == nil)
    one.reset(count: 1)
    one.insert(.init(key: 1, order: 1, member: 0))
    #expect(one.top(except: 0) == nil)
  }

  @Test(arguments: [1, 2, 3, 7, 8, 9, 100]) func treeAgainstSums(count: Int) {
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "weight tree"))
    var tree = WeightTree()
    tree.reset(count: count)
    var model = [Int](repeating: 0, count: count)
    for _ in 0..<300 {
      let member = random.below(count)
      model[member] = random.chance(30) ? 0 : random.below(65_537)
      tree.set(member, UInt32(model[member]))
      #expect(tree.total == model.reduce(0, +))
      for member in 0..<count { #expect(tree.sum(before: member) == model[..<member].reduce(0, +)) }
      guard tree.total > 0 else { continue }
      let point = random.below(tree.total)
      var sum = 0
      let owner = model.firstIndex { weight in
        sum += weight
        return sum > point
      }
      #expect(tree.member(at: point) == owner)
    }
  }

  @Test func drawsNeverGiveWhatIsExcluded() {
    var tree = WeightTree()
    tree.reset(count: 5)
    for (member, weight) in [3, 0, 1, 5, 2].enumerated() { tree.set(member, UInt32(weight)) }
    var state: UInt64 = 1
    for (a, b) in [(-1, -1), (0, -1), (-1, 3), (0, 3), (3, 0), (1, 4), (2, 2), (4, 0)] {
      var counts = [0, 0, 0, 0, 0]
      for _ in 0..<20_000 { counts[tree.draw(except: a, b, &state)] += 1 }
      let left = [3, 0, 1, 5, 2].enumerated().map { $0.0 == a || $0.0 == b ? 0 : $0.1 }
      for (weight, count) in zip(left, counts) {
        #expect(abs(count - 20_000 * weight / left.reduce(0, +)) < 500, "\(a), \(b): \(counts)")
        #expect((weight == 0) == (count == 0))
      }
    }
    tree.set(2, 0)
    tree.set(4, 0)
    #expect(tree.draw(except: 0, 3, &state) == -1)
  }

  @Test func windowAgainstAList() {
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "sliding window"))
    var window = SlidingWindow()
    var model: [(second: Int, isSpecial: Bool)] = []
    var now = 5_000_000
    for _ in 0..<5_000 {
      now += random.chance(2) ? random.below(30_000) : random.below(700)
      window.advance(to: now)
      model.removeAll { $0.second <= now / 1_000 - 10 }
      if random.chance(80) {
        let isSpecial = random.chance(40)
        window.add(isSpecial: isSpecial)
        model.append((now / 1_000, isSpecial))
      }
      #expect(window.total == model.count)
      #expect(window.special == model.count { $0.isSpecial })
      // A clock that goes back a little does no harm.
      window.advance(to: now - 1_500)
    }
    window = SlidingWindow()
    window.advance(to: 1_000)
    window.turnedSpecial()
    #expect(window.special == 0, "there is nothing that could have turned")
    window.add(isSpecial: false)
    window.turnedSpecial()
    #expect(window.special == 1 && window.total == 1)
  }

  @Test func placesAreFound() {
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "places"))
    var map = PlaceMap()
    #expect(map.member(at: 0) == nil && map.member(at: -1) == nil)
    for count in [0, 1, 2, 5, 1_000] {
      map.reset(count: count)
      var model: [Int32: Int] = [:]
      while model.count < count {
        let place = Int32(random.below(random.chance(50) ? 2_000 : Int(Int32.max)))
        guard model[place] == nil else { continue }
        map.insert(place, member: model.count)
        model[place] = model.count
      }
      for (place, member) in model { #expect(map.member(at: place) == member) }
      for _ in 0..<200 {
        let place = Int32(random.below(3_000))
        #expect(map.member(at: place) == model[place])
      }
    }
  }

  @Test func responseTimesForgetByHalves() {
    #expect(ResponseTime.remaining(after: -5) == 1)
    #expect(ResponseTime.remaining(after: 5_000) == 0.5)
    #expect(ResponseTime.remaining(after: 7_500) == 0.375)
    #expect(ResponseTime.remaining(after: 10_000_000) == 0)
    var response = ResponseTime()
    #expect(!response.isKnown)
    response.add(1_000, isFailure: false, now: 0)
    #expect(response.value(isIdle: true, now: 5_000) == 500)
    #expect(response.value(isIdle: false, now: 5_000) == 1_000)
    response.add(200, isFailure: false, now: 5_000)
    #expect(response.value(isIdle: false, now: 5_000) == 600)
  }

  @Test func hashesAreStableAndSpread() {
    // Other replicas, of other versions, too, must agree: these numbers never change.
    #expect(StableHash.of("") == 0x2B13_8879_F0EC_A6AF)
    #expect(StableHash.of("instance-1") == 0x5229_994B_1591_514B)
    #expect(StableHash.combine(1, 2) == 0x75DA_ACD8_0213_911F)
    #expect(ClientAddress(v4: 0x7F00_0001).hash == 0x4B36_EE06_5FBE_267E)
    // One bit of the input changes half of the output.
    var changed = 0
    for length in [1, 7, 8, 9, 16, 33] {
      for bit in 0..<8 * length {
        var bytes = [UInt8](repeating: 0x5A, count: length)
        let before = StableHash.of(bytes.span)
        bytes[bit / 8] ^= 1 << UInt8(bit % 8)
        let difference = (before ^ StableHash.of(bytes.span)).nonzeroBitCount
        #expect(difference > 8 && difference < 56)
        changed += difference
      }
    }
    #expect(abs(changed - 74 * 8 * 32) < 74 * 8)
    #expect(StableHash.of("a", seed: 1) != StableHash.of("a", seed: 2))
    #expect(StableHash.of([0].span) != StableHash.of([0, 0].span))
    #expect(StableHash.combine(1, 2) != StableHash.combine(2, 1))
  }

  @Test func addressesAreToldApartByNetwork() {
    let v4 = ClientAddress(v4: 0x0A01_0203)
    #expect(v4 != ClientAddress(v4: 0x0A01_0204))
    #expect(v4 == ClientAddress(v6: 0, 0xFFFF_0A01_0203))
    let site: UInt64 = 0x2001_0DB8_0001_0002
    #expect(ClientAddress(v6: site, 1) == ClientAddress(v6: site, 0xFFFF_0A01_0203))
    #expect(ClientAddress(v6: site, 1) != ClientAddress(v6: site + 1, 1))
    #expect(ClientAddress(v6: 0, 1) != v4)
  }
}
