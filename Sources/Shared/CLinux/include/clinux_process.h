// Processes: what the control plane needs to start, watch and end instances (pidfd, sessions, removal of what they
// leave). posix_spawn's newer file actions and pidfds are _GNU_SOURCE or bare system calls, wait(2)'s status macros and
// nftw(3)'s callbacks do not import into Swift.
#ifndef BERTH_CLINUX_PROCESS_H
#define BERTH_CLINUX_PROCESS_H
#include <sys/types.h>

// A descriptor that becomes readable when the process ends (pidfd_open(2)), or -errno.
int clinux_pidfd_open(pid_t pid);
// Sends a signal through a pidfd, so that a reused pid is never hit (pidfd_send_signal(2)); 0 or -errno.
int clinux_pidfd_signal(int pidfd, int signal);

// Starts a program as leader of a session (and so process group) of its own: standard input from /dev/null, output and
// errors to `output`, no other descriptor, default signals, `directory` as working directory. The pid, or -errno.
pid_t clinux_spawn(const char *path, char *const arguments[], char *const environment[], const char *directory, int output);

// How a process that has ended did so.
typedef struct {
  int exited;  // 1: this call reaped it, the other fields hold; 0: it runs; -errno (-ECHILD: not a child of ours)
  int status;  // its exit status, -1 when a signal ended it
  int signal;  // the signal that ended it, 0 when it exited
} clinux_exit;
// Reaps a child if it has ended (waitpid(2) with WNOHANG).
clinux_exit clinux_reap(pid_t pid);

// Removes a directory with all that is in it, never following a symbolic link; 0, or -errno of the first failure.
// What vanishes meanwhile is no failure.
int clinux_remove_tree(const char *path);

// Copies directories and regular files below `from` into the directory `to`; symbolic links, sockets and what is named
// Singleton… are left out. 0, or -errno of the first failure.
int clinux_copy_tree(const char *from, const char *to);
#endif
