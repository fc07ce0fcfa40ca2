// OpenSSL, with its function-like macros as functions and the two BIOs that Berth needs. Only the target TLS imports this.
#ifndef BERTH_COPENSSL_H
#define BERTH_COPENSSL_H
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/decodererr.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stddef.h>
#include <stdint.h>
#include "copenssl_records.h"
#include "copenssl_server.h"

// What the window BIO reads from and writes to. One per worker thread: every SSL of the worker shares the BIO, and the
// worker points the window at the connection's bytes just before each call.
typedef struct {
  const uint8_t *input;
  size_t input_length;
  size_t input_consumed;
  uint8_t *output;
  size_t output_capacity;
  size_t output_count;
  uint8_t *spare;  // room for one record that no connection needs now
} copenssl_window;

// A BIO whose reads come out of the window (an empty one means "retry later", never the end) and whose writes are
// appended to it (a full one takes what fits and then means "retry later"). NULL when memory is short.
BIO *copenssl_window_bio(copenssl_window *window);
// Gives the SSL its own reference to the BIO, for both directions. 1 on success.
int copenssl_use_bio(SSL *ssl, BIO *bio);

// A BIO on a socket that never blocks and never raises SIGPIPE, whatever the socket's mode: OpenSSL's own socket BIO
// uses write(2). The descriptor stays the caller's. NULL when memory is short.
BIO *copenssl_socket_bio(int fd);
// The errno of the last failed read or write of a socket BIO; 0 when none failed.
int copenssl_socket_error(BIO *bio);

// A server context's settings that do not differ from one to another: AEAD ciphers, groups, ALPN, buffers. 1 on success.
int copenssl_configure_server(SSL_CTX *context);
// The same for a client; TLS 1.2 or newer. 1 on success.
int copenssl_configure_client(SSL_CTX *context);
// Verification of the peer's name; `name` is a host name or an IP literal. SNI is sent for host names. 1 on success.
int copenssl_expect_name(SSL *ssl, const char *name, int verify);

// SHA-256 (FIPS 180-4) of some bytes.
void copenssl_sha256(const uint8_t *bytes, size_t count, uint8_t digest[32]);

// Function-like macros.
static inline unsigned long copenssl_error_system(unsigned long code) { return ERR_SYSTEM_ERROR(code) ? 1 : 0; }
static inline int copenssl_error_reason(unsigned long code) { return ERR_GET_REASON(code); }
static inline int copenssl_error_library(unsigned long code) { return ERR_GET_LIB(code); }
static inline unsigned long copenssl_error(int reason) { return ERR_PACK(ERR_LIB_SSL, 0, reason); }
// After the handshake: fewer reads than one for each record's header and one for its body.
static inline void copenssl_read_ahead(SSL *ssl) { SSL_set_read_ahead(ssl, 1); }
static inline EVP_PKEY *copenssl_new_p256_key(void) { return EVP_EC_gen("P-256"); }
static inline long copenssl_memory(BIO *bio, char **bytes) { return BIO_get_mem_data(bio, bytes); }
// Adds an extension given in the notation of openssl.cnf. 1 on success.
int copenssl_add_extension(X509 *certificate, int nid, const char *value);

// Reasons that TLS tells apart (enumerators of OpenSSL's headers are macros).
enum {
  COPENSSL_LIBRARY_SSL = ERR_LIB_SSL,
  COPENSSL_LIBRARY_PEM = ERR_LIB_PEM,
  COPENSSL_LIBRARY_DECODER = ERR_LIB_OSSL_DECODER,
  COPENSSL_UNSUPPORTED = ERR_R_UNSUPPORTED,
  COPENSSL_HTTP_REQUEST = SSL_R_HTTP_REQUEST,
  COPENSSL_HTTPS_PROXY_REQUEST = SSL_R_HTTPS_PROXY_REQUEST,
  COPENSSL_WRONG_VERSION_NUMBER = SSL_R_WRONG_VERSION_NUMBER,
  COPENSSL_UNSUPPORTED_PROTOCOL = SSL_R_UNSUPPORTED_PROTOCOL,
  COPENSSL_VERSION_TOO_LOW = SSL_R_VERSION_TOO_LOW,
  COPENSSL_NO_PROTOCOLS = SSL_R_NO_PROTOCOLS_AVAILABLE,
  COPENSSL_INAPPROPRIATE_FALLBACK = SSL_R_INAPPROPRIATE_FALLBACK,
  COPENSSL_NO_SHARED_CIPHER = SSL_R_NO_SHARED_CIPHER,
  COPENSSL_NO_SHARED_SIGNATURE = SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS,
  COPENSSL_NO_SIGNATURE = SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM,
  COPENSSL_NO_KEY_SHARE = SSL_R_NO_SUITABLE_KEY_SHARE,
  COPENSSL_NO_SHARED_GROUP = SSL_R_NO_SHARED_GROUPS,
  COPENSSL_NO_GROUP = SSL_R_NO_SUITABLE_GROUPS,
  COPENSSL_VERIFY_FAILED = SSL_R_CERTIFICATE_VERIFY_FAILED,
  COPENSSL_NO_CLIENT_CERTIFICATE = SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE,
  COPENSSL_NO_START_LINE = PEM_R_NO_START_LINE,
  COPENSSL_BAD_PASSWORD_READ = PEM_R_BAD_PASSWORD_READ,
  COPENSSL_INTERRUPTED = ERR_R_INTERRUPTED_OR_CANCELLED,  // what decoders say when they are given no pass phrase
  COPENSSL_BAD_RECORD = SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC,
  COPENSSL_RECORD_TOO_LONG = SSL_R_DATA_LENGTH_TOO_LONG,
  COPENSSL_UNEXPECTED_RECORD = SSL_R_UNEXPECTED_RECORD,
  COPENSSL_UNEXPECTED_MESSAGE = SSL_R_UNEXPECTED_MESSAGE,
  COPENSSL_BAD_KEY_UPDATE = SSL_R_BAD_KEY_UPDATE,
  COPENSSL_BAD_ALERT = SSL_R_INVALID_ALERT,
  COPENSSL_TOO_MANY_EMPTY_RECORDS = SSL_R_TOO_MANY_KEY_UPDATES,
  COPENSSL_INTERNAL = ERR_R_INTERNAL_ERROR,
  // Alerts that the peer sent have their number plus this as the reason.
  COPENSSL_ALERT_OFFSET = SSL_AD_REASON_OFFSET,
};
#endif
