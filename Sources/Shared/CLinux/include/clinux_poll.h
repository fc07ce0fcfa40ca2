// epoll, eventfd, splice and the socket calls that Glibc's Swift module leaves out, because their headers want
// _GNU_SOURCE (accept4, pipe2, splice, F_SETPIPE_SZ) or use types it does not import (epoll_event is packed).
#ifndef BERTH_CLINUX_POLL_H
#define BERTH_CLINUX_POLL_H
#include <stdint.h>
#include <sys/types.h>
#include <sys/socket.h>

typedef struct __attribute__((packed)) {
  uint32_t events;
  uint64_t token;
} clinux_epoll_event;
_Static_assert(sizeof(clinux_epoll_event) == 12, "epoll_event is packed to 12 bytes on x86-64");

enum {
  CLINUX_EPOLLIN = 0x001,
  CLINUX_EPOLLOUT = 0x004,
  CLINUX_EPOLLERR = 0x008,
  CLINUX_EPOLLHUP = 0x010,
  CLINUX_EPOLLRDHUP = 0x2000,
};
#define CLINUX_EPOLLET ((uint32_t)0x80000000u)

// Each returns what the system call returns, or -errno.
int clinux_epoll_create(void);
int clinux_epoll_add(int epfd, int fd, uint32_t events, uint64_t token);
int clinux_epoll_delete(int epfd, int fd);
int clinux_epoll_wait(int epfd, clinux_epoll_event *events, int capacity, int timeout_milliseconds);
int clinux_eventfd(void);
int clinux_accept(int listener, struct sockaddr *address, socklen_t *length);
int clinux_pipe(int fds[2], int bytes);
// Bytes in the socket's send queue (tcp(7), SIOCOUTQ), or -errno.
int clinux_unsent(int fd);
// Names the calling thread (at most 15 bytes), as top -H shows it.
void clinux_name_thread(const char *name);
int64_t clinux_splice(int from, int to, uint64_t bytes, int more);
#endif
