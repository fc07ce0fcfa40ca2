// Preloaded into berth-data by allocations.py: counts what its workers allocate, retain, release and ask of the kernel,
// and from where. A worker is a thread that has called epoll_wait(2). Counts go to a file that both map ($BERTH_COUNTS).
//
// The runtime's functions for objects are replaced at their entry, so that calls inside the standard library are counted
// as well (x86-64 only). malloc and system calls are interposed.
#ifndef __x86_64__
#error the jump that is written over the runtime's functions is x86-64 code
#endif
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind {
  SWIFT_ALLOC, SWIFT_RETAIN, SWIFT_RELEASE, SWIFT_ACCESS, MALLOC, FREE, MAP, MUTEX, FIRST_CALL,
  EPOLL_WAIT = FIRST_CALL, EPOLL_CTL, RECV, SEND, SENDMSG, SPLICE, ACCEPT, SOCKET, CONNECT, CLOSE, SHUTDOWN, SOCKOPT,
  READ, WRITE, KINDS
};
enum { DEPTH = 24, PLACES = 4096 };

struct place { uint64_t hash, count, kind, depth; void *frames[DEPTH]; };
struct counts {
  _Atomic uint64_t armed, traced;
  _Atomic uint64_t totals[KINDS];
  uint64_t lost;
  struct place places[PLACES];
};

static struct counts *counts;
static __thread bool isWorker __attribute__((tls_model("initial-exec")));
static __thread bool inside __attribute__((tls_model("initial-exec")));
static pthread_mutex_t placesLock = PTHREAD_MUTEX_INITIALIZER;
static int (*lockMutex)(pthread_mutex_t *);
static int (*unlockMutex)(pthread_mutex_t *);

static void trace(enum kind kind) {
  void *frames[DEPTH + 2];
  int depth = backtrace(frames, DEPTH + 2);
  uint64_t hash = 1469598103934665603ull + kind;
  for (int i = 2; i < depth; i++) hash = (hash ^ (uint64_t)frames[i]) * 1099511628211ull;
  lockMutex(&placesLock);
  uint64_t at = hash % PLACES;
  int looked = 0;
  while (counts->places[at].count && counts->places[at].hash != hash && looked++ < PLACES) at = (at + 1) % PLACES;
  struct place *p = &counts->places[at];
  if (looked > PLACES) counts->lost++;
  else {
    if (!p->count) {
      p->hash = hash;
      p->kind = kind;
      p->depth = depth > 2 ? depth - 2 : 0;
      memcpy(p->frames, frames + 2, p->depth * sizeof(void *));
    }
    p->count++;
  }
  unlockMutex(&placesLock);
}

static inline void count(enum kind kind) {
  if (!isWorker || inside || !counts || !atomic_load_explicit(&counts->armed, memory_order_relaxed)) return;
  inside = true;
  atomic_fetch_add_explicit(&counts->totals[kind], 1, memory_order_relaxed);
  if (kind < FIRST_CALL && atomic_load_explicit(&counts->traced, memory_order_relaxed)) trace(kind);
  inside = false;
}

// ---- the Swift runtime
static void *(*allocObject)(const void *, size_t, size_t);
static void *(*retain)(void *);
static void *(*retainN)(void *, uint32_t);
static void *(*tryRetain)(void *);
static void (*release)(void *);
static void (*releaseN)(void *, uint32_t);
// Short strings and the like have no object; the runtime passes over them, too.
static inline bool isObject(void *o) { return (intptr_t)o > 0; }
static void *countAllocObject(const void *m, size_t s, size_t a) { count(SWIFT_ALLOC); return allocObject(m, s, a); }
static void *countRetain(void *o) { if (isObject(o)) count(SWIFT_RETAIN); return retain(o); }
static void *countRetainN(void *o, uint32_t n) { if (isObject(o)) count(SWIFT_RETAIN); return retainN(o, n); }
static void *countTryRetain(void *o) { if (isObject(o)) count(SWIFT_RETAIN); return tryRetain(o); }
static void countRelease(void *o) { if (isObject(o)) count(SWIFT_RELEASE); release(o); }
static void countReleaseN(void *o, uint32_t n) { if (isObject(o)) count(SWIFT_RELEASE); releaseN(o, n); }

// Replaces the beginning of a runtime function by a jump; its body is still there under the pointer for instruments.
static void replace(const char *name, const char *body, void *mine, void *original) {
  unsigned char *code = dlsym(RTLD_DEFAULT, name);
  void **pointer = dlsym(RTLD_DEFAULT, body);
  if (!code || !pointer) abort();
  *(void **)original = *pointer;
  uintptr_t page = (uintptr_t)code & ~4095ul;
  if (mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) abort();
  unsigned char jump[13] = {0x49, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0xff, 0xe3};  // movabs mine, %r11; jmp *%r11
  memcpy(jump + 2, &mine, 8);
  memcpy(code, jump, sizeof jump);
  if (mprotect((void *)page, 8192, PROT_READ | PROT_EXEC)) abort();
}

__attribute__((constructor)) static void begin(void) {
  lockMutex = dlsym(RTLD_NEXT, "pthread_mutex_lock");
  unlockMutex = dlsym(RTLD_NEXT, "pthread_mutex_unlock");
  const char *path = getenv("BERTH_COUNTS");
  if (!path || !dlsym(RTLD_DEFAULT, "swift_retain")) return;
  void *warm[4];
  backtrace(warm, 4);  // loads the unwinder, which allocates
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0 || ftruncate(fd, sizeof(struct counts))) abort();
  struct counts *mapped = mmap(0, sizeof(struct counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) abort();
  close(fd);
  replace("swift_allocObject", "_swift_allocObject", countAllocObject, &allocObject);
  replace("swift_retain", "_swift_retain", countRetain, &retain);
  replace("swift_retain_n", "_swift_retain_n", countRetainN, &retainN);
  replace("swift_tryRetain", "_swift_tryRetain", countTryRetain, &tryRetain);
  replace("swift_release", "_swift_release", countRelease, &release);
  replace("swift_release_n", "_swift_release_n", countReleaseN, &releaseN);
  counts = mapped;
}

// ---- interposed
#define NEXT(result, name, ...) \
  static result (*next)(__VA_ARGS__); \
  if (!next) next = dlsym(RTLD_NEXT, #name)

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
void *malloc(size_t n) { count(MALLOC); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { count(MALLOC); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { count(MALLOC); return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { count(MALLOC); return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { count(MALLOC); return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { count(MALLOC); return (*p = __libc_memalign(a, n)) ? 0 : 12; }
void free(void *p) { if (p) count(FREE); __libc_free(p); }

void *mmap(void *a, size_t n, int p, int f, int d, off_t o) { NEXT(void *, mmap, void *, size_t, int, int, int, off_t); count(MAP); return next(a, n, p, f, d, o); }
int munmap(void *a, size_t n) { NEXT(int, munmap, void *, size_t); count(MAP); return next(a, n); }
int pthread_mutex_lock(pthread_mutex_t *m) { if (!lockMutex) lockMutex = dlsym(RTLD_NEXT, "pthread_mutex_lock"); count(MUTEX); return lockMutex(m); }
void swift_beginAccess(void *p, void *b, uintptr_t f, void *pc) { NEXT(void, swift_beginAccess, void *, void *, uintptr_t, void *); count(SWIFT_ACCESS); next(p, b, f, pc); }

int epoll_wait(int e, struct epoll_event *v, int n, int t) { NEXT(int, epoll_wait, int, struct epoll_event *, int, int); isWorker = true; count(EPOLL_WAIT); return next(e, v, n, t); }
int epoll_ctl(int e, int o, int d, struct epoll_event *v) { NEXT(int, epoll_ctl, int, int, int, struct epoll_event *); count(EPOLL_CTL); return next(e, o, d, v); }
ssize_t recv(int d, void *b, size_t n, int f) { NEXT(ssize_t, recv, int, void *, size_t, int); count(RECV); return next(d, b, n, f); }
ssize_t send(int d, const void *b, size_t n, int f) { NEXT(ssize_t, send, int, const void *, size_t, int); count(SEND); return next(d, b, n, f); }
ssize_t sendmsg(int d, const struct msghdr *m, int f) { NEXT(ssize_t, sendmsg, int, const struct msghdr *, int); count(SENDMSG); return next(d, m, f); }
ssize_t splice(int a, off64_t *x, int b, off64_t *y, size_t n, unsigned f) { NEXT(ssize_t, splice, int, off64_t *, int, off64_t *, size_t, unsigned); count(SPLICE); return next(a, x, b, y, n, f); }
int accept4(int d, struct sockaddr *a, socklen_t *n, int f) { NEXT(int, accept4, int, struct sockaddr *, socklen_t *, int); count(ACCEPT); return next(d, a, n, f); }
int socket(int d, int t, int p) { NEXT(int, socket, int, int, int); count(SOCKET); return next(d, t, p); }
int connect(int d, const struct sockaddr *a, socklen_t n) { NEXT(int, connect, int, const struct sockaddr *, socklen_t); count(CONNECT); return next(d, a, n); }
int close(int d) { NEXT(int, close, int); count(CLOSE); return next(d); }
int shutdown(int d, int h) { NEXT(int, shutdown, int, int); count(SHUTDOWN); return next(d, h); }
int setsockopt(int d, int l, int o, const void *v, socklen_t n) { NEXT(int, setsockopt, int, int, int, const void *, socklen_t); count(SOCKOPT); return next(d, l, o, v, n); }
int getsockopt(int d, int l, int o, void *v, socklen_t *n) { NEXT(int, getsockopt, int, int, int, void *, socklen_t *); count(SOCKOPT); return next(d, l, o, v, n); }
ssize_t read(int d, void *b, size_t n) { NEXT(ssize_t, read, int, void *, size_t); count(READ); return next(d, b, n); }
ssize_t write(int d, const void *b, size_t n) { NEXT(ssize_t, write, int, const void *, size_t); count(WRITE); return next(d, b, n); }
