// Where an observation is counted.
import Observability
import Testing

@Suite struct HistogramTests {
  @Test func eachObservationFallsIntoOneBucket() {
    var histogram = Histogram(bounds: [0.1, 1])
    for value in [0.05, 0.1, 0.2, 1, 5] { histogram.observe(value) }
    #expect(histogram.counts == [2, 2, 1] && histogram.count == 5 && histogram.sum == 6.35)
    var page = MetricsText()
    page.family("a_seconds", .histogram, "A.")
    page.histogram(histogram, ["pool": "p"])
    #expect(
      page.text.split(separator: "\n").dropFirst(2).map(String.init) == [
        #"a_seconds_bucket{pool="p",le="0.1"} 2"#, #"a_seconds_bucket{pool="p",le="1.0"} 4"#,
        #"a_seconds_bucket{pool="p",le="+Inf"} 5"#, #"a_seconds_sum{pool="p"} 6.35"#, #"a_seconds_count{pool="p"} 5"#,
      ])
  }
}
