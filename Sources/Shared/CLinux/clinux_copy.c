// Copies a browser's profile. nftw(3) walks it; the kernel copies, and shares blocks where the file system can.
#define _GNU_SOURCE
#include "clinux_process.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static __thread const char *copy_target;
static __thread size_t copy_from_length;

static int copy_file(const char *from, const char *to, mode_t mode) {
  int source = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (source < 0) return errno;
  int target = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode & 0700) | 0600);
  int failure = target < 0 ? errno : 0;
  while (!failure) {
    ssize_t count = copy_file_range(source, NULL, target, NULL, 1 << 30, 0);
    if (count == 0) break;
    if (count > 0) continue;
    if (errno == EINTR) continue;
    if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) {
      failure = errno;
      break;
    }
    // Not between these file systems: by hand, from where it stands.
    char buffer[65536];
    ssize_t n;
    while ((n = read(source, buffer, sizeof buffer)) > 0) {
      for (ssize_t done = 0; done < n;) {
        ssize_t written = write(target, buffer + done, (size_t)(n - done));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) {
          failure = errno;
          break;
        }
        done += written;
      }
      if (failure) break;
    }
    if (n < 0) failure = errno;
    break;
  }
  if (target >= 0 && close(target) < 0 && !failure) failure = errno;
  close(source);
  return failure;
}

static int copy_entry(const char *path, const struct stat *info, int type, struct FTW *position) {
  // Whose browser has the profile open is not true of the copy.
  if (position->level > 0 && strncmp(path + position->base, "Singleton", 9) == 0) return 0;
  char to[4096];
  int length = snprintf(to, sizeof to, "%s%s", copy_target, path + copy_from_length);
  if (length < 0 || (size_t)length >= sizeof to) return ENAMETOOLONG;
  switch (type) {
  case FTW_D: return mkdir(to, 0700) < 0 && errno != EEXIST ? errno : 0;
  case FTW_F: return S_ISREG(info->st_mode) ? copy_file(path, to, info->st_mode) : 0;
  case FTW_DNR:
  case FTW_NS: return EACCES;
  default: return 0;
  }
}

int clinux_copy_tree(const char *from, const char *to) {
  copy_target = to;
  copy_from_length = strlen(from);
  int result = nftw(from, copy_entry, 32, FTW_PHYS);
  return result < 0 ? -errno : -result;
}
