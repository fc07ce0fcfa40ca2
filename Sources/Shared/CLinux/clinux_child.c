#define _GNU_SOURCE
#include "clinux_child.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Runs between fork and exec, in a copy of a process that may have had other threads: async-signal-safe calls only.
static void become(const char *path, char *const argv[], char *const envp[], int output, int death_signal, pid_t parent) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  for (int signal = 1; signal < NSIG; signal++) (void)sigaction(signal, &action, 0);
  action.sa_handler = SIG_IGN;
  (void)sigaction(SIGPIPE, &action, 0);
  sigset_t none;
  sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, 0);
  if (setpgid(0, 0) < 0) return;
  if (death_signal != 0 && prctl(PR_SET_PDEATHSIG, death_signal) < 0) return;
  // The parent may have died before the line above took effect.
  if (getppid() != parent) _exit(1);
  int input = open("/dev/null", O_RDONLY);
  if (input < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) return;
  // Everything else is closed on exec, whether its opener thought of it or not.
  (void)syscall(SYS_close_range, 3, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */);
  execve(path, argv, envp);
}

pid_t clinux_child_start(const char *path, char *const argv[], char *const envp[], int output, int death_signal) {
  int report[2];  // closed by a successful exec, else it carries the errno
  if (pipe2(report, O_CLOEXEC) < 0) return -errno;
  pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    become(path, argv, envp, output, death_signal, parent);
    int error = errno;
    (void)!write(report[1], &error, sizeof error);
    _exit(127);
  }
  int error = child < 0 ? errno : 0;
  close(report[1]);
  if (child > 0) {
    ssize_t n;
    do n = read(report[0], &error, sizeof error);
    while (n < 0 && errno == EINTR);
    if (n == sizeof error) (void)waitpid(child, 0, 0);
    else error = 0;
  }
  close(report[0]);
  return error != 0 ? -error : child;
}

int clinux_child_adopt_orphans(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ? -errno : 0; }

int clinux_child_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  // Log rotation and upgrade scripts of other servers send these, whose default is to kill.
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &set, 0) < 0) return -errno;
  // A parent that ignored SIGCHLD (as some service managers' shells do) would make the kernel reap our children.
  struct sigaction action = {.sa_handler = SIG_DFL};
  (void)sigaction(SIGCHLD, &action, 0);
  (void)sigaction(SIGINT, &action, 0);
  int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int clinux_child_next_signal(int fd) {
  struct signalfd_siginfo info;
  ssize_t n = read(fd, &info, sizeof info);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -errno;
  return n == sizeof info ? (int)info.ssi_signo : -EIO;
}
