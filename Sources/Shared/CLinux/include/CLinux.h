// Kernel facilities that Swift's Glibc module does not import. One header a facility; each says why it exists.
#ifndef BERTH_CLINUX_H
#define BERTH_CLINUX_H
#include "clinux_child.h"
#include "clinux_ktls.h"
#include "clinux_poll.h"
#include "clinux_process.h"
#include "clinux_unix.h"
#endif
