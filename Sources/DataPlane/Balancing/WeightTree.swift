// Weights of members with their sums (a Fenwick tree), so that a member is drawn with the probability of its weight in
// O(log n), and a weight changes in O(log n), too. The balancer draws random members with it when weights differ.

struct WeightTree: Sendable {
  /// Node i (from 1) holds the sum of the weights of the members i - lowbit(i) ..< i.
  private var sums: [UInt32] = [0]
  private var weights: [UInt32] = []
  private(set) var total = 0
  /// The largest power of two that is not above the number of members.
  private var highestStep = 0

  mutating func reset(count: Int) {
    sums = [UInt32](repeating: 0, count: count + 1)
    weights = [UInt32](repeating: 0, count: count)
    total = 0
    highestStep = count == 0 ? 0 : 1 << (Int.bitWidth - 1 - count.leadingZeroBitCount)
  }

  func weight(of member: Int) -> Int { Int(weights[member]) }

  mutating func set(_ member: Int, _ weight: UInt32) {
    let change = weight &- weights[member]
    guard change != 0 else { return }
    total += Int(weight) - Int(weights[member])
    weights[member] = weight
    var node = member + 1
    while node < sums.count {
      sums[node] &+= change
      node += node & -node
    }
  }

  /// The sum of all weights before the member's.
  @inline(__always) func sum(before member: Int) -> Int {
    var sum = 0
    var node = member
    while node > 0 {
      sum += Int(sums[node])
      node &= node - 1
    }
    return sum
  }

  /// The member on whose weight this point of 0..<total lies.
  @inline(__always) func member(at point: Int) -> Int {
    var rest = UInt32(truncatingIfNeeded: point)
    var node = 0
    var step = highestStep
    while step > 0 {
      let next = node + step
      if next < sums.count, sums[next] <= rest {
        node = next
        rest -= sums[next]
      }
      step >>= 1
    }
    return node
  }

  /// A random member with the probability of its weight; none of the two, which are -1 or members. -1 if none is left.
  @inline(__always) func draw(except a: Int, _ b: Int, _ random: inout UInt64) -> Int {
    let weightA = a >= 0 ? weight(of: a) : 0
    let weightB = b >= 0 && b != a ? weight(of: b) : 0
    let rest = total - weightA - weightB
    guard rest > 0 else { return -1 }
    var point = Random.below(rest, &random)
    // Points at and after an excluded member's weight move behind it, the lower one first.
    if weightA | weightB != 0 {
      let startA = weightA > 0 ? sum(before: a) : Int.max
      let startB = weightB > 0 ? sum(before: b) : Int.max
      if point >= min(startA, startB) { point += startA < startB ? weightA : weightB }
      if startA != Int.max, startB != Int.max, point >= max(startA, startB) {
        point += startA < startB ? weightB : weightA
      }
    }
    return member(at: point)
  }
}
