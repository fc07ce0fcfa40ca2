// Kernel TLS: TCP_ULP is in no header that Swift imports.
#ifndef BERTH_CLINUX_KTLS_H
#define BERTH_CLINUX_KTLS_H
// Whether the kernel has TLS (TCP_ULP "tls"): 1, 0, or -errno when there is no connection to ask with. Loads the module if it
// may. The question needs a connected socket, so this makes a connection over loopback for a moment.
int clinux_kernel_tls(void);
#endif
