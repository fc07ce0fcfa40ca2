// Children of `berth up`: they must end with their parent, whatever ends it, and must not be hit by the terminal's
// Ctrl-C, which their parent turns into an orderly end. posix_spawn(3) can set neither a parent-death signal nor
// close what it was not told of, and Swift cannot call fork(2).
#ifndef BERTH_CLINUX_CHILD_H
#define BERTH_CLINUX_CHILD_H
#include <sys/types.h>

// Starts `path` with these null-terminated arrays, in a process group of its own, with /dev/null as standard input and
// `output` as standard output and error. `death_signal` is sent to it when the calling THREAD ends, so call this from a
// thread that lives as long as the process. Returns the pid, or -errno when the program could not be started.
// The child starts with no signal blocked, every signal at its default but SIGPIPE, which stays ignored: a daemon whose
// log pipe lost its reader must live on to end in order.
pid_t clinux_child_start(const char *path, char *const argv[], char *const envp[], int output, int death_signal);

// Makes this process the one that inherits its descendants' orphans (PR_SET_CHILD_SUBREAPER); 0 or -errno.
int clinux_child_adopt_orphans(void);

// Blocks SIGINT, SIGTERM, SIGHUP and SIGCHLD for the calling thread and those it starts from now on, and returns a
// non-blocking descriptor that reads them (signalfd(2)), or -errno.
int clinux_child_signals(void);
// The next signal that came in, 0 when none is waiting, or -errno.
int clinux_child_next_signal(int fd);
#endif
