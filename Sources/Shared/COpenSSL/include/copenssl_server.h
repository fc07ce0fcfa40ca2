// Server contexts: the certificates of each name, session tickets, stapled OCSP answers, client certificates. What OpenSSL
// asks for in callbacks during a handshake is answered in C, from memory that is fixed once the context is in use, so that
// no worker takes a lock and Swift is not entered. Included by COpenSSL.h only.
#ifndef BERTH_COPENSSL_SERVER_H
#define BERTH_COPENSSL_SERVER_H
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stddef.h>
#include <stdint.h>

enum { COPENSSL_SECRET_BYTES = 32, COPENSSL_TICKET_EPOCH_SECONDS = 7200 };

// What all contexts of one configuration have in common.
typedef struct {
  int minimum_version;  // TLS1_2_VERSION or TLS1_3_VERSION
  int tickets;          // how many a TLS 1.3 client gets after a full handshake
  // Where the keys of all tickets come from: contexts with the same secret take each other's tickets.
  uint8_t ticket_secret[COPENSSL_SECRET_BYTES];
  int64_t clock_offset;  // added to the time that ticket epochs and OCSP answers are judged by; for tests
  // Client certificates: NULL = not asked for. Both are shared, the caller keeps its references.
  X509_STORE *client_store;
  STACK_OF(X509_NAME) * client_names;
  int client_required;
  // Sessions of another kind of client verification are not resumed: this tells the kinds apart.
  uint8_t session_context[32];
} copenssl_server_settings;

// A context without certificates; NULL when memory is short or a setting is refused.
SSL_CTX *copenssl_server_context(const copenssl_server_settings *settings);

// Adds a certificate with its chain and key, beside those of other key types. 1 on success.
int copenssl_add_identity(SSL_CTX *context, X509 *leaf, EVP_PKEY *key, STACK_OF(X509) * chain);
// Clients that ask get this OCSP answer with that certificate until `until` (Unix seconds). 1 on success.
int copenssl_staple(SSL_CTX *context, X509 *leaf, const uint8_t *der, size_t length, int64_t until);
// Clients that ask `front` for this name (lower case; "*.example.com" stands for one label) are served by `context`, which
// is kept alive by it. Names must be added in the order of strcmp, each once. 1 on success.
int copenssl_add_name(SSL_CTX *front, const char *name, SSL_CTX *context);

// The secret that tickets' keys are made of, from what the operator gave. 1 on success.
int copenssl_ticket_secret(const uint8_t *given, size_t length, uint8_t secret[COPENSSL_SECRET_BYTES]);
int copenssl_random(uint8_t *into, size_t length);

// PEM in memory. A reader goes through the certificates of a text; NULL after the last one, and on an error, which is
// then in OpenSSL's queue.
BIO *copenssl_text(const uint8_t *bytes, size_t length);
X509 *copenssl_next_certificate(BIO *text);
// The first private key; NULL when there is none or it is encrypted.
EVP_PKEY *copenssl_private_key(BIO *text);
int copenssl_fits(X509 *leaf, EVP_PKEY *key);
STACK_OF(X509) * copenssl_new_chain(void);
int copenssl_extend_chain(STACK_OF(X509) * chain, X509 *certificate);  // takes a reference of its own
void copenssl_free_chain(STACK_OF(X509) * chain);
// The names that a certificate is for, one a line: DNS names of its subject alternative name, or the common name when it
// has none of any kind. NULL when memory is short; free with copenssl_free.
char *copenssl_names(X509 *certificate);
void copenssl_free(void *memory);
// Unix seconds of the certificate's end; INT64_MAX when it has none that can be told.
int64_t copenssl_not_after(X509 *certificate);

enum {
  COPENSSL_OCSP_GOOD,
  COPENSSL_OCSP_MALFORMED,
  COPENSSL_OCSP_FAILED,      // the responder answered with an error
  COPENSSL_OCSP_OTHER,       // it is about another certificate
  COPENSSL_OCSP_EXPIRED,
};
// Whether a DER file is an answer about this certificate that can be stapled now, and until when.
int copenssl_check_ocsp(const uint8_t *der, size_t length, X509 *leaf, int64_t clock_offset, int64_t *until);

// Client certificates.
X509_STORE *copenssl_new_store(void);
STACK_OF(X509_NAME) * copenssl_new_names(void);
int copenssl_trust(X509_STORE *store, STACK_OF(X509_NAME) * names, X509 *certificate);
void copenssl_free_store(X509_STORE *store);
void copenssl_free_names(STACK_OF(X509_NAME) * names);
// The certificate that the client has proved to own, with a reference that the caller must give back; NULL without one.
X509 *copenssl_client_certificate(SSL *ssl);
// Its subject (RFC 4514, printable ASCII) or issuer; NULL when memory is short; free with copenssl_free.
char *copenssl_subject(X509 *certificate);
char *copenssl_issuer(X509 *certificate);
// Its serial number in hexadecimal; free with copenssl_free.
char *copenssl_serial(X509 *certificate);
int copenssl_fingerprint(X509 *certificate, uint8_t digest[32]);
#endif
