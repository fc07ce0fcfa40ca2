// OpenSSL, with its function-like macros as functions. Only the target TLS imports this.
#ifndef BERTH_COPENSSL_H
#define BERTH_COPENSSL_H
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#endif
