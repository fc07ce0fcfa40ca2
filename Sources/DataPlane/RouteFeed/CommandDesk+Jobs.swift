// Job affinity over replicas: which instance made a job is kept in Redis, and asked for by workers that were not there
// when it was made. All of it may fail: a worker then takes any instance.
import ProxyMachine
import Routing
import State

/// A job's name in the deployment.
struct JobName: Hashable {
  let pool: String
  let id: String
}

/// Where is this job?
struct JobQuestion {
  let key: TicketKey
  let job: JobName
  /// Whether Redis did not know it once already.
  var isSecond = false
}

extension CommandDesk {
  /// Jobs whose instance Redis is told when it is back.
  static let owedJobsLimit = 10_000

  func remember(_ job: JobName, instance: String) -> Operation? {
    guard Jobs.isID(job.id) else {
      core.count { $0.jobsDropped += 1 }
      return nil
    }
    return Operation(
      .rememberJob(job, instance: instance), jobs.remember(job.id, pool: job.pool, instance: instance))
  }

  func owe(_ job: JobName, instance: String) {
    guard owed.jobs[job] != nil || owed.jobs.count < Self.owedJobsLimit else {
      core.count { $0.jobsDropped += 1 }
      return
    }
    owed.jobs[job] = instance
  }

  /// The command that finds it; nil when it is answered without one.
  func find(_ question: JobQuestion) -> Operation? {
    guard Jobs.isID(question.job.id) else {
      answer(question, .unknown)
      return nil
    }
    // Not yet told to Redis.
    if let instance = owed.jobs[question.job] {
      answer(question, .instance(instance))
      return nil
    }
    return Operation(.findJob(question), jobs.instance(of: question.job.id, pool: question.job.pool)) { .text($0) }
  }

  /// A client may ask sooner than the replica that saw its job's birth has told Redis: so Redis is asked twice.
  func found(_ question: JobQuestion, _ instance: String?) {
    if let instance { return answer(question, .instance(instance)) }
    if question.isSecond { return answer(question, .unknown) }
    var question = question
    question.isSecond = true
    core.count { $0.jobsAskedAgain += 1 }
    askAgain.append((monotonic + core.jobRetryMilliseconds, question))
  }

  func answer(_ question: JobQuestion, _ owner: JobOwner) {
    core.deliver(owner, question.key)
  }

  /// They are in the order of their times, as all wait equally long.
  func askForJobsAgain() {
    let due = askAgain.prefix { $0.at <= monotonic }
    guard !due.isEmpty else { return }
    askAgain.removeFirst(due.count)
    perform(due.compactMap { find($0.question) })
  }

  /// Whether it was a question about a job that waits to be asked again.
  func cancelJob(_ key: TicketKey) -> Bool {
    guard let index = askAgain.firstIndex(where: { $0.question.key == key }) else { return false }
    askAgain.remove(at: index)
    return true
  }
}
