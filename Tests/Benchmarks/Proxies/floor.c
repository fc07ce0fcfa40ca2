// floor: what no proxy that copies can cost less than. One thread, one connection of the instance for each client, no
// parsing, no timers, no log, no limits; good for short messages only (a full socket buffer ends the connection).
//   floor LISTENPORT BACKENDPORT
// Build: cc -O2 -o floor floor.c
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <errno.h>
static int peer[1 << 17];
static char buffer[1 << 20];
int main(int argc, char **argv) {
  int port = atoi(argv[1]), back = atoi(argv[2]), one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in b = a; b.sin_port = htons(back);
  int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("listen"); return 1; }
  int ep = epoll_create1(0);
  struct epoll_event ev = {.events = EPOLLIN, .data.fd = l}, evs[512];
  epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
  setsockopt(l, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
  memset(peer, -1, sizeof peer);
  for (;;) {
    int n = epoll_wait(ep, evs, 512, -1);
    for (int i = 0; i < n; i++) {
      int fd = evs[i].data.fd;
      if (fd == l) {
        int c;
        while ((c = accept4(l, 0, 0, SOCK_NONBLOCK)) >= 0) {
          int s = socket(AF_INET, SOCK_STREAM, 0);
          setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
          if (connect(s, (void *)&b, sizeof b)) { perror("connect"); return 1; }
          peer[c] = s; peer[s] = c;
          ev.events = EPOLLIN | EPOLLET | EPOLLRDHUP;
          ev.data.fd = c; epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev);
          ev.data.fd = s; epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev);
        }
        continue;
      }
      int p = peer[fd];
      if (p < 0) continue;
      ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (got > 0) {
        if (send(p, buffer, got, MSG_NOSIGNAL) == got && !(evs[i].events & EPOLLRDHUP)) continue;
      } else if (got < 0 && errno == EAGAIN) continue;
      close(fd); close(p); peer[fd] = peer[p] = -1;
    }
  }
}
