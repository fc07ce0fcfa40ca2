// The command line of `berth`: what a person types. The work is in Launcher; here are the words.
import ArgumentParser
import Glibc
import Launcher

@main struct Berth: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Many browsers behind one address.", version: Version.text,
    subcommands: [Up.self, Status.self, Version.self])
}

struct Version: ParsableCommand {
  static let text = "berth 0.1.0"
  static let configuration = CommandConfiguration(abstract: "Print the version.")

  func run() { print(Version.text) }
}

struct Status: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Say whether berth up runs in this directory.")

  @Option(help: "Directory of its state. [BERTH_STATE_DIRECTORY]") var stateDirectory: String?

  func run() throws {
    let directory = stateDirectory ?? Variables().text("BERTH_STATE_DIRECTORY") ?? LaunchSettings().stateDirectory
    guard let pid = StateDirectory.owner(of: directory) else {
      print("berth is not running in \(directory)")
      throw ExitCode(3)
    }
    print("berth is running in \(directory) (pid \(pid))")
  }
}
