// The exposition format, byte by byte.
import Observability
import Testing

@Suite("Metrics text")
struct MetricsTextTests {
  @Test("counters and gauges with labels, escaped")
  func samples() {
    var metrics = MetricsText()
    metrics.family("berth_requests_total", .counter, "Requests,\nby \\ pool \"x\".")
    metrics.sample(3, ["pool": "chrome", "code": "200"])
    metrics.sample(9_007_199_254_740_993, ["pool": "a\"b\\c\nd é"])
    metrics.single("berth_up", .gauge, "Whether it is up.", 1)
    metrics.family("berth_ratio", .gauge, "")
    metrics.sample(0.25)
    metrics.sample(.infinity, ["a": ""])
    metrics.sample(-.infinity)
    metrics.sample(.nan)
    #expect(
      metrics.text == #"""
        # HELP berth_requests_total Requests,\nby \\ pool "x".
        # TYPE berth_requests_total counter
        berth_requests_total{pool="chrome",code="200"} 3
        berth_requests_total{pool="a\"b\\c\nd é"} 9007199254740993
        # HELP berth_up Whether it is up.
        # TYPE berth_up gauge
        berth_up 1
        # HELP berth_ratio 
        # TYPE berth_ratio gauge
        berth_ratio 0.25
        berth_ratio{a=""} +Inf
        berth_ratio -Inf
        berth_ratio NaN

        """#)
  }

  @Test("histograms are cumulative and end with +Inf, sum and count")
  func histograms() {
    var metrics = MetricsText()
    metrics.family("berth_wait_seconds", .histogram, "Waits.")
    metrics.histogram(bounds: [0.005, 1, 2.5], counts: [2, 0, 3, 1], sum: 12.5, ["pool": "p"])
    metrics.histogram(bounds: [], counts: [4], sum: 0)
    #expect(
      metrics.text == #"""
        # HELP berth_wait_seconds Waits.
        # TYPE berth_wait_seconds histogram
        berth_wait_seconds_bucket{pool="p",le="0.005"} 2
        berth_wait_seconds_bucket{pool="p",le="1.0"} 2
        berth_wait_seconds_bucket{pool="p",le="2.5"} 5
        berth_wait_seconds_bucket{pool="p",le="+Inf"} 6
        berth_wait_seconds_sum{pool="p"} 12.5
        berth_wait_seconds_count{pool="p"} 6
        berth_wait_seconds_bucket{le="+Inf"} 4
        berth_wait_seconds_sum 0.0
        berth_wait_seconds_count 4

        """#)
  }

  @Test("mistakes of the caller end the program")
  func mistakes() async {
    await #expect(processExitsWith: .failure) {
      var metrics = MetricsText()
      metrics.family("a b", .gauge, "")
    }
    await #expect(processExitsWith: .failure) {
      var metrics = MetricsText()
      metrics.family("requests", .counter, "")
    }
    await #expect(processExitsWith: .failure) {
      var metrics = MetricsText()
      metrics.single("a", .gauge, "", 1)
      metrics.single("a", .gauge, "", 1)
    }
    await #expect(processExitsWith: .failure) {
      var metrics = MetricsText()
      metrics.family("a", .gauge, "")
      metrics.sample(1, ["le": "1"])
    }
  }
}
