#define _GNU_SOURCE
#include "clinux_process.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int clinux_pidfd_open(pid_t pid) {
  long fd = syscall(SYS_pidfd_open, pid, 0);
  return fd < 0 ? -errno : (int)fd;
}
int clinux_pidfd_signal(int pidfd, int signal) {
  return syscall(SYS_pidfd_send_signal, pidfd, signal, 0, 0) < 0 ? -errno : 0;
}

pid_t clinux_spawn(const char *path, char *const arguments[], char *const environment[], const char *directory, int output) {
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_t actions;
  int error = posix_spawnattr_init(&attributes);
  if (error) return -error;
  error = posix_spawn_file_actions_init(&actions);
  if (error) {
    posix_spawnattr_destroy(&attributes);
    return -error;
  }
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  pid_t pid = 0;
  if (!(error = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)) &&
      !(error = posix_spawnattr_setsigmask(&attributes, &none)) && !(error = posix_spawnattr_setsigdefault(&attributes, &all)) &&
      !(error = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)) &&
      !(error = posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO)) &&
      !(error = posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO)) &&
      !(error = posix_spawn_file_actions_addclosefrom_np(&actions, 3)) &&
      !(error = posix_spawn_file_actions_addchdir_np(&actions, directory)))
    error = posix_spawn(&pid, path, &actions, &attributes, arguments, environment);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error ? -error : pid;
}

clinux_exit clinux_reap(pid_t pid) {
  clinux_exit result = {0, -1, 0};
  int status = 0;
  pid_t reaped;
  do reaped = waitpid(pid, &status, WNOHANG);
  while (reaped < 0 && errno == EINTR);
  if (reaped < 0) {
    result.exited = -errno;
  } else if (reaped == pid) {
    result.exited = 1;
    if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
    else if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  }
  return result;
}

static __thread int removal_error;
static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *position) {
  (void)info;
  (void)position;
  int failed = type == FTW_DP || type == FTW_D || type == FTW_DNR ? rmdir(path) : unlink(path);
  if (failed && errno != ENOENT && !removal_error) removal_error = errno;
  return 0;
}
int clinux_remove_tree(const char *path) {
  removal_error = 0;
  // 32 descriptors: deeper levels are read again instead of being held open.
  if (nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT && !removal_error)
    removal_error = errno;
  return -removal_error;
}
