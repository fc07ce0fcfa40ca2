#include "copenssl_records.h"
#include <openssl/crypto.h>
#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include "COpenSSL.h"

// MARK: suites

typedef struct {
  uint16_t number;
  size_t key_length;
  const char *name, *cipher_name;
  const EVP_MD *(*hash)(void);
  EVP_CIPHER *cipher;  // fetched once: looking it up by name costs more than a small record
} suite;

static suite suites[] = {
    {0x1301, 16, "TLS_AES_128_GCM_SHA256", "AES-128-GCM", EVP_sha256, NULL},
    {0x1302, 32, "TLS_AES_256_GCM_SHA384", "AES-256-GCM", EVP_sha384, NULL},
    {0x1303, 32, "TLS_CHACHA20_POLY1305_SHA256", "ChaCha20-Poly1305", EVP_sha256, NULL},
};
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

static void fetch(void) {
  for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
    suites[i].cipher = EVP_CIPHER_fetch(NULL, suites[i].cipher_name, NULL);
  // One that a provider does not have is no error of the connection that asks next.
  ERR_clear_error();
}

static const suite *find(uint16_t number) {
  if (pthread_once(&fetched, fetch) != 0) return NULL;
  for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
    if (suites[i].number == number) return suites[i].cipher ? &suites[i] : NULL;
  return NULL;
}

uint16_t copenssl_suite(SSL *ssl) {
  // Records that are shorter than usual (RFC 6066 §4) are OpenSSL's to make.
  const SSL_SESSION *session = SSL_get_session(ssl);
  if (session && SSL_SESSION_get_max_fragment_length(session) != TLSEXT_max_fragment_length_DISABLED) return 0;
  const SSL_CIPHER *cipher = SSL_version(ssl) == TLS1_3_VERSION ? SSL_get_current_cipher(ssl) : NULL;
  uint16_t number = cipher ? SSL_CIPHER_get_protocol_id(cipher) : 0;
  return find(number) ? number : 0;
}

const char *copenssl_suite_name(uint16_t number) {
  const suite *found = find(number);
  return found ? found->name : "unknown";
}

// MARK: what a handshake tells

static int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static size_t take_secret(const char *hex, uint8_t secret[COPENSSL_SECRET_LIMIT]) {
  size_t length = 0;
  for (; hex[0] && hex[1]; hex += 2) {
    int high = digit(hex[0]), low = digit(hex[1]);
    if (high < 0 || low < 0 || length == COPENSSL_SECRET_LIMIT) return 0;
    secret[length++] = (uint8_t)(high << 4 | low);
  }
  return length;
}

// A line is a label, the client's random bytes and the secret, as other programs log them for packet dissectors.
static void told(const SSL *ssl, const char *line) {
  copenssl_traffic *traffic = SSL_get_ex_data(ssl, 0);
  const char *last = traffic ? strrchr(line, ' ') : NULL;
  if (!last) return;
  if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0) traffic->client_length = take_secret(last + 1, traffic->client);
  if (strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0) {
    traffic->server_length = take_secret(last + 1, traffic->server);
    traffic->written = 0;
  }
}

// The type inside a record is told for each that is encrypted.
static void wrote(int is_written, int version, int type, const void *bytes, size_t length, SSL *ssl, void *user) {
  (void)version, (void)bytes, (void)length, (void)user;
  if (!is_written || type != SSL3_RT_INNER_CONTENT_TYPE) return;
  copenssl_traffic *traffic = SSL_get_ex_data(ssl, 0);
  if (traffic && traffic->server_length) traffic->written++;
}

void copenssl_tell_traffic(SSL_CTX *context) {
  SSL_CTX_set_keylog_callback(context, told);
  SSL_CTX_set_msg_callback(context, wrote);
}

int copenssl_set_traffic(SSL *ssl, copenssl_traffic *traffic) { return SSL_set_ex_data(ssl, 0, traffic); }

// MARK: keys

// HKDF-Expand-Label without a context (RFC 8446 §7.1). No output is longer than the hash, so one round of HMAC is all.
static int expand(const copenssl_direction *direction, const suite *suite, const char *label, uint8_t *out, size_t length) {
  uint8_t info[2 + 1 + 6 + 16 + 1 + 1], block[EVP_MAX_MD_SIZE];
  size_t label_length = strlen(label);
  if (label_length > 16 || length > direction->secret_length) return 0;
  size_t at = 0;
  info[at++] = 0;
  info[at++] = (uint8_t)length;
  info[at++] = (uint8_t)(6 + label_length);
  memcpy(info + at, "tls13 ", 6);
  memcpy(info + at + 6, label, label_length);
  at += 6 + label_length;
  info[at++] = 0;
  info[at++] = 1;
  int made = HMAC(suite->hash(), direction->secret, (int)direction->secret_length, info, at, block, NULL) != NULL;
  if (made) memcpy(out, block, length);
  OPENSSL_cleanse(block, sizeof block);
  return made;
}

static int set_key(copenssl_direction *direction) {
  const suite *suite = find(direction->suite);
  uint8_t key[32];
  int good = suite && expand(direction, suite, "key", key, suite->key_length) &&
             expand(direction, suite, "iv", direction->iv, sizeof direction->iv) &&
             EVP_CipherInit_ex(direction->cipher, suite->cipher, NULL, key, NULL, direction->seals) == 1;
  OPENSSL_cleanse(key, sizeof key);
  direction->sequence = 0;
  return good;
}

int copenssl_start(copenssl_direction *direction, uint16_t number, const copenssl_traffic *traffic, int seals) {
  memset(direction, 0, sizeof *direction);
  const suite *suite = find(number);
  size_t length = seals ? traffic->server_length : traffic->client_length;
  if (!suite || length != (size_t)EVP_MD_get_size(suite->hash())) return 0;
  direction->suite = number;
  direction->seals = seals != 0;
  memcpy(direction->secret, seals ? traffic->server : traffic->client, length);
  direction->secret_length = length;
  direction->cipher = EVP_CIPHER_CTX_new();
  if (!direction->cipher || !set_key(direction)) {
    copenssl_end(direction);
    return 0;
  }
  direction->sequence = seals ? traffic->written : 0;
  return 1;
}

int copenssl_next_key(copenssl_direction *direction) {
  const suite *suite = find(direction->suite);
  uint8_t next[COPENSSL_SECRET_LIMIT];
  int good = suite && expand(direction, suite, "traffic upd", next, direction->secret_length);
  if (good) {
    memcpy(direction->secret, next, direction->secret_length);
    good = set_key(direction);
  }
  OPENSSL_cleanse(next, sizeof next);
  return good;
}

void copenssl_end(copenssl_direction *direction) {
  EVP_CIPHER_CTX_free(direction->cipher);
  OPENSSL_cleanse(direction, sizeof *direction);
}

// MARK: records

// RFC 8446 §5.3: the number of the record is xored into the end of the IV.
static void make_nonce(const copenssl_direction *direction, uint8_t nonce[12]) {
  memcpy(nonce, direction->iv, 12);
  for (int i = 0; i < 8; i++) nonce[11 - i] ^= (uint8_t)(direction->sequence >> (8 * i));
}

static int step(EVP_CIPHER_CTX *cipher, uint8_t *out, const uint8_t *in, size_t count) {
  int done = 0;
  return EVP_CipherUpdate(cipher, out, &done, in, (int)count) == 1 && (size_t)done == count;
}

int copenssl_seal(copenssl_direction *direction, uint8_t type, const uint8_t *plain, size_t count, uint8_t *record) {
  uint8_t nonce[12], *text = record + COPENSSL_HEADER;
  EVP_CIPHER_CTX *cipher = direction->cipher;
  size_t length = count + 1 + COPENSSL_TAG;
  record[0] = SSL3_RT_APPLICATION_DATA, record[1] = 3, record[2] = 3;
  record[3] = (uint8_t)(length >> 8), record[4] = (uint8_t)length;
  make_nonce(direction, nonce);
  if (EVP_CipherInit_ex(cipher, NULL, NULL, NULL, nonce, 1) != 1 || !step(cipher, NULL, record, COPENSSL_HEADER)) return 0;
  if (count <= 1024) {
    // Copying costs less than another call for the type.
    memcpy(text, plain, count);
    text[count] = type;
    if (!step(cipher, text, text, count + 1)) return 0;
  } else if (!step(cipher, text, plain, count) || !step(cipher, text + count, &type, 1)) {
    return 0;
  }
  int rest = 0;
  direction->sequence++;
  return EVP_CipherFinal_ex(cipher, text + count + 1, &rest) == 1 && rest == 0 &&
         EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, COPENSSL_TAG, text + count + 1) == 1;
}

int copenssl_open(copenssl_direction *direction, const uint8_t *record, size_t count, uint8_t *plain) {
  uint8_t nonce[12], tag[COPENSSL_TAG];
  EVP_CIPHER_CTX *cipher = direction->cipher;
  size_t length = count - COPENSSL_HEADER - COPENSSL_TAG;
  memcpy(tag, record + count - COPENSSL_TAG, COPENSSL_TAG);
  make_nonce(direction, nonce);
  int rest = 0;
  direction->sequence++;
  return EVP_CipherInit_ex(cipher, NULL, NULL, NULL, nonce, 0) == 1 &&
         EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, COPENSSL_TAG, tag) == 1 &&
         step(cipher, NULL, record, COPENSSL_HEADER) && step(cipher, plain, record + COPENSSL_HEADER, length) &&
         EVP_CipherFinal_ex(cipher, plain + length, &rest) == 1 && rest == 0;
}

// MARK: the kernel

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

// The nonce is `salt` and `iv`; each suite has a structure of its own with the same members.
#define FILL(to, type)                                                       \
  do {                                                                       \
    (to).info.version = TLS_1_3_VERSION, (to).info.cipher_type = (type);     \
    memcpy((to).salt, direction->iv, sizeof(to).salt);                       \
    memcpy((to).iv, direction->iv + sizeof(to).salt, sizeof(to).iv);         \
    memcpy((to).key, key, sizeof(to).key);                                   \
    memcpy((to).rec_seq, sequence, sizeof(to).rec_seq);                      \
    length = sizeof(to);                                                     \
  } while (0)

int copenssl_offload(const copenssl_direction *direction, int fd) {
  const suite *suite = find(direction->suite);
  union {
    struct tls12_crypto_info_aes_gcm_128 small;
    struct tls12_crypto_info_aes_gcm_256 large;
    struct tls12_crypto_info_chacha20_poly1305 chacha;
  } info;
  uint8_t key[32], sequence[8];
  socklen_t length = 0;
  if (!suite || !expand(direction, suite, "key", key, suite->key_length)) return -ENOMEM;
  for (int i = 0; i < 8; i++) sequence[i] = (uint8_t)(direction->sequence >> (56 - 8 * i));
  memset(&info, 0, sizeof info);
  switch (direction->suite) {
    case 0x1301: FILL(info.small, TLS_CIPHER_AES_GCM_128); break;
    case 0x1302: FILL(info.large, TLS_CIPHER_AES_GCM_256); break;
    default: FILL(info.chacha, TLS_CIPHER_CHACHA20_POLY1305);
  }
  // A socket with the protocol and without keys is a plain one, so nothing has to be undone.
  int result = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls") != 0)
    result = errno == ENOENT || errno == ENOPROTOOPT || errno == EOPNOTSUPP ? 0 : -errno;
  else if (setsockopt(fd, SOL_TLS, TLS_TX, &info, length) != 0)
    result = -errno;
  OPENSSL_cleanse(key, sizeof key);
  OPENSSL_cleanse(&info, sizeof info);
  return result;
}

int copenssl_kernel_alert(int fd, uint8_t level, uint8_t alert) {
  uint8_t content[2] = {level, alert};
  struct iovec piece = {content, sizeof content};
  union {
    struct cmsghdr header;
    uint8_t room[CMSG_SPACE(1)];
  } control;
  memset(&control, 0, sizeof control);
  struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(1)};
  control.header.cmsg_level = SOL_TLS;
  control.header.cmsg_type = TLS_SET_RECORD_TYPE;
  control.header.cmsg_len = CMSG_LEN(1);
  *CMSG_DATA(&control.header) = SSL3_RT_ALERT;
  return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof content ? 1 : -errno;
}
