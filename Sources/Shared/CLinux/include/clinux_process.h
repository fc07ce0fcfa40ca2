// Processes: what the control plane needs to start, watch and end instances (pidfd, sessions, parent-death signals).
#ifndef BERTH_CLINUX_PROCESS_H
#define BERTH_CLINUX_PROCESS_H
#include <sys/types.h>

// A descriptor that becomes readable when the process ends (pidfd_open(2)), or -errno.
int clinux_pidfd_open(pid_t pid);
// Sends a signal through a pidfd, so that a reused pid is never hit (pidfd_send_signal(2)); 0 or -errno.
int clinux_pidfd_signal(int pidfd, int signal);
#endif
