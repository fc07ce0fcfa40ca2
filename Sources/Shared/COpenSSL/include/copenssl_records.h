// Records of TLS 1.3 under keys that OpenSSL has negotiated (RFC 8446 §5.2, §5.3, §7.2, §7.3): what of it is cryptography.
// What records mean is TLSRecords.swift's. Included by COpenSSL.h only.
#ifndef BERTH_COPENSSL_RECORDS_H
#define BERTH_COPENSSL_RECORDS_H
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

enum {
  COPENSSL_HEADER = 5,              // type, version, length
  COPENSSL_TAG = 16,                // of every suite
  COPENSSL_OVERHEAD = 5 + 1 + 16,   // what a record is longer than its plaintext without padding
  COPENSSL_SECRET_LIMIT = 48,       // the longest hash of a suite
};

// What a server's handshake tells on its way, by callbacks: the secrets that both directions begin with, and how many records
// OpenSSL has written under its own since (session tickets).
typedef struct {
  uint8_t client[COPENSSL_SECRET_LIMIT], server[COPENSSL_SECRET_LIMIT];
  size_t client_length, server_length;  // 0: not told
  uint64_t written;
} copenssl_traffic;

// One direction: its key inside `cipher`, and what the next record and the next key are made of.
typedef struct {
  EVP_CIPHER_CTX *cipher;
  uint64_t sequence;  // records under this key
  uint8_t iv[12];
  uint8_t secret[COPENSSL_SECRET_LIMIT];
  size_t secret_length;
  uint16_t suite;  // as on the wire (RFC 8446 §B.4)
  uint8_t seals;
} copenssl_direction;

// Lets connections of this context tell their secrets. Nothing of them leaves the process.
void copenssl_tell_traffic(SSL_CTX *context);
// Where this connection tells them; NULL: nowhere any more. 1 on success.
int copenssl_set_traffic(SSL *ssl, copenssl_traffic *traffic);

// The suite's number when records of this connection can be taken over: TLS 1.3, one of its three common suites, and records
// of the usual length. Else 0.
uint16_t copenssl_suite(SSL *ssl);
// The suite's name as OpenSSL says it.
const char *copenssl_suite_name(uint16_t suite);

// Begins what a server writes (`seals`) or reads, where its handshake ended. 1 on success; on failure nothing has to be ended.
int copenssl_start(copenssl_direction *direction, uint16_t suite, const copenssl_traffic *traffic, int seals);
// Goes on with the next key of the direction (RFC 8446 §7.2). 1 on success.
int copenssl_next_key(copenssl_direction *direction);
// Frees the key and wipes what it was made of.
void copenssl_end(copenssl_direction *direction);

// Writes a record of this type and plaintext: `count` + COPENSSL_OVERHEAD bytes. `plain` and `record` must not overlap.
// 1 on success.
int copenssl_seal(copenssl_direction *direction, uint8_t type, const uint8_t *plain, size_t count, uint8_t *record);
// Decrypts a whole record of `count` bytes, at least COPENSSL_OVERHEAD. `plain` gets `count` - 21 bytes: the plaintext, its
// type and zeros; it may be the record's own byte 5. 1 when the record is good.
int copenssl_open(copenssl_direction *direction, const uint8_t *record, size_t count, uint8_t *plain);

// Gives the direction to the kernel (TCP_ULP "tls", TLS_TX): what is written to the connected socket from now on, it seals.
// 1 on success. Else the socket is as before: 0 when the kernel has no TLS, -errno when it does not take this one (ENOENT:
// not with this suite; ENOTCONN: the peer is gone).
int copenssl_offload(const copenssl_direction *direction, int fd);
// Sends an alert on such a socket without waiting. 1 on success, else -errno.
int copenssl_kernel_alert(int fd, uint8_t level, uint8_t alert);
#endif
