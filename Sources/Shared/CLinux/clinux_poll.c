#define _GNU_SOURCE
#include "clinux_poll.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>
#include <unistd.h>

#if defined(__x86_64__)
_Static_assert(sizeof(struct epoll_event) == sizeof(clinux_epoll_event), "the mirror has the kernel's size");
#endif
_Static_assert((uint32_t)EPOLLET == CLINUX_EPOLLET && EPOLLRDHUP == CLINUX_EPOLLRDHUP, "the mirror has the kernel's bits");

static int result(int value) { return value < 0 ? -errno : value; }

int clinux_epoll_create(void) { return result(epoll_create1(EPOLL_CLOEXEC)); }
int clinux_epoll_add(int epfd, int fd, uint32_t events, uint64_t token) {
  struct epoll_event event = {.events = events, .data.u64 = token};
  return result(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event));
}
int clinux_epoll_delete(int epfd, int fd) { return result(epoll_ctl(epfd, EPOLL_CTL_DEL, fd, 0)); }
int clinux_epoll_wait(int epfd, clinux_epoll_event *events, int capacity, int timeout_milliseconds) {
  return result(epoll_wait(epfd, (struct epoll_event *)events, capacity, timeout_milliseconds));
}
int clinux_eventfd(void) { return result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
int clinux_accept(int listener, struct sockaddr *address, socklen_t *length) {
  return result(accept4(listener, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC));
}
int clinux_pipe(int fds[2], int bytes) {
  if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) return -errno;
  if (bytes > 0) (void)fcntl(fds[1], F_SETPIPE_SZ, bytes);  // refused over the user's pipe limit: the default size serves too
  return fcntl(fds[1], F_GETPIPE_SZ);
}
int64_t clinux_splice(int from, int to, uint64_t bytes, int more) {
  ssize_t n = splice(from, 0, to, 0, bytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK | (more ? SPLICE_F_MORE : 0));
  return n < 0 ? -errno : n;
}
int clinux_unsent(int fd) {
  int bytes = 0;
  return ioctl(fd, SIOCOUTQ, &bytes) < 0 ? -errno : bytes;
}
void clinux_name_thread(const char *name) { (void)pthread_setname_np(pthread_self(), name); }
