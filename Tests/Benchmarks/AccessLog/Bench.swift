// What the access log costs: nanoseconds per record for a worker (keep the text, put the record in, give the text back)
// and for the writer's thread with its write(2). `Tests/Benchmarks/AccessLog/run` builds and runs it.
import Glibc
import Observability
import Posix

@main struct AccessLogBench {
  static func cpuNanoseconds(_ clock: clockid_t) -> Int {
    var time = timespec()
    unsafe clock_gettime(clock, &time)
    return time.tv_sec * 1_000_000_000 + time.tv_nsec
  }

  static func main() throws {
    let path = CommandLine.arguments[1]
    let labels = LabeledMetrics(workers: 1)
    let lease = labels.lease()
    let log = try AccessLog(.file(path), workers: 1, labels: labels, log: LogWriter(level: .error))
    let id = Array("9f2c1b7a-000042".utf8)
    let method = Array("GET".utf8)
    let authority = Array("bench.test".utf8)
    let target = Array("/api/v1/items?page=2".utf8)
    var record = AccessRecord()
    record.client = SocketAddress("127.0.0.1:54321")!
    record.status = 200
    record.route = lease.row(route: "all")
    record.pool = lease.row(pool: "web")
    record.instance = lease.row(instance: "web-1", pool: "web")
    record.bytesFromClient = 71
    record.bytesToClient = 345
    record.firstByteMicroseconds = 213
    let worker = log.workers[0]
    let labelled = labels.workers[0]
    let records = 1_000_000
    for _ in 0..<3 {
      var spent = 0
      let before = cpuNanoseconds(CLOCK_PROCESS_CPUTIME_ID)
      let own = cpuNanoseconds(CLOCK_THREAD_CPUTIME_ID)
      let droppedBefore = log.dropped
      let writtenBefore = log.written
      for batch in 0..<records / 1_000 {
        let start = cpuNanoseconds(CLOCK_THREAD_CPUTIME_ID)
        for index in 0..<1_000 {
          record.startedMicroseconds = batch * 10_000 + index * 10
          record.totalMicroseconds = 200 + index
          let text = worker.begin(id: id.span, method: method.span, authority: authority.span, target: target.span)
          worker.end(text, record)
        }
        spent += cpuNanoseconds(CLOCK_THREAD_CPUTIME_ID) - start
        usleep(5_000)
      }
      while log.written + log.dropped < writtenBefore + droppedBefore + records { usleep(1_000) }
      let all = cpuNanoseconds(CLOCK_PROCESS_CPUTIME_ID) - before
      let mine = cpuNanoseconds(CLOCK_THREAD_CPUTIME_ID) - own
      print(
        "worker \(spent / records) ns, writer \((all - mine) / records) ns per record; dropped \(log.dropped - droppedBefore)"
      )
    }
    let start = cpuNanoseconds(CLOCK_THREAD_CPUTIME_ID)
    for index in 0..<records {
      labelled.began(route: record.route, pool: record.pool)
      labelled.add(.activeNow, instance: record.instance)
      labelled.ended(
        instance: record.instance, status: 200, microseconds: index & 1_023, bytesFromClient: 71, bytesToClient: 345)
      labelled.ended(
        route: record.route, pool: record.pool, status: 200, microseconds: index & 1_023, bytesFromClient: 71,
        bytesToClient: 345)
    }
    let spent = cpuNanoseconds(CLOCK_THREAD_CPUTIME_ID) - start
    print("labelled counters of a request: \(Double(spent) / Double(records)) ns")
    log.close()
  }
}
