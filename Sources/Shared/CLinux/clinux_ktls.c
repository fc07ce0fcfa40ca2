#define _GNU_SOURCE
#include "clinux_ktls.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif

int clinux_kernel_tls(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int result;
  if (listener < 0 || client < 0 || bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&address, &length) < 0 ||
      connect(client, (struct sockaddr *)&address, length) < 0)
    result = -errno;
  else
    result = setsockopt(client, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls") == 0;
  if (listener >= 0) close(listener);
  if (client >= 0) close(client);
  return result;
}
