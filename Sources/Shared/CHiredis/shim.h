// The system's hiredis (Debian: libhiredis-dev). Only the target Redis imports this.
#include <hiredis/hiredis.h>
#include <hiredis/read.h>
