// Unix sockets that keep messages apart (SOCK_SEQPACKET) and carry descriptors: the macros of cmsg(3) do not import into
// Swift. One process hands its listeners to the next with them.
#ifndef BERTH_CLINUX_UNIX_H
#define BERTH_CLINUX_UNIX_H
#include <stddef.h>
#include <sys/types.h>

// Each returns -errno on failure. All descriptors are non-blocking and closed on exec.
// Listens at a path that must not exist yet and that only this user may open (mode 0600).
int clinux_unix_listen(const char *path);
int clinux_unix_accept(int listener);
int clinux_unix_connect(const char *path);
// The user at the other end, as of its connect(2) or listen(2), and its process; 0 or -errno.
int clinux_unix_peer(int fd, uid_t *user, pid_t *process);
// Sends one message, with `descriptor` unless that is -1; 0 or -errno.
int clinux_unix_send(int fd, const void *bytes, size_t count, int descriptor);
// The next message's length (0 at the end), with the descriptor that came with it, or -1.
ssize_t clinux_unix_receive(int fd, void *bytes, size_t capacity, int *descriptor);
#endif
