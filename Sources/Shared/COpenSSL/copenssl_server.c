#include "copenssl_server.h"
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include "COpenSSL.h"

// MARK: what a context carries

typedef struct {
  char *name;
  SSL_CTX *context;  // NULL: the front context itself, which would otherwise keep itself alive
} named;

typedef struct {
  X509 *leaf;  // only compared; the context holds it
  uint8_t *der;
  size_t length;
  int64_t until;
} staple;

// Belongs to one SSL_CTX and is freed with it, that is after the last connection which uses it.
typedef struct {
  uint8_t ticket_secret[COPENSSL_SECRET_BYTES];
  int64_t clock_offset;
  named *names;
  size_t name_count, name_capacity;
  staple staples[4];
  size_t staple_count;
} extras;

static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static int extras_index = -1;
// Fetched once: looking them up by name costs more than using them.
static EVP_CIPHER *ticket_cipher;
static EVP_KDF *hkdf;

static void free_extras(void *parent, void *pointer, CRYPTO_EX_DATA *data, int index, long number, void *user) {
  (void)parent, (void)data, (void)index, (void)number, (void)user;
  extras *extra = pointer;
  if (!extra) return;
  for (size_t i = 0; i < extra->name_count; i++) {
    OPENSSL_free(extra->names[i].name);
    SSL_CTX_free(extra->names[i].context);
  }
  OPENSSL_free(extra->names);
  for (size_t i = 0; i < extra->staple_count; i++) OPENSSL_free(extra->staples[i].der);
  OPENSSL_clear_free(extra, sizeof *extra);
}

static void prepare(void) {
  extras_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_extras);
  ticket_cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
  hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
}

static extras *extras_of(SSL_CTX *context) { return SSL_CTX_get_ex_data(context, extras_index); }

// MARK: session tickets

// The keys of one epoch: the name that stands in front of a ticket, and what encrypts and signs it (RFC 5077, 4).
typedef struct {
  uint8_t name[16], cipher_key[32], mac_key[32];
} ticket_keys;
_Static_assert(sizeof(ticket_keys) == 80, "one derivation fills it");

static int derive(const uint8_t *key, size_t key_length, const char *info, uint64_t number, uint8_t *out, size_t length) {
  char text[64];
  size_t info_length = strlen(info);
  if (!hkdf || info_length + 8 > sizeof text) return 0;
  memcpy(text, info, info_length);
  for (int i = 0; i < 8; i++) text[info_length + (size_t)i] = (char)(number >> (56 - 8 * i));
  EVP_KDF_CTX *context = EVP_KDF_CTX_new(hkdf);
  if (!context) return 0;
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, key_length),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, text, info_length + 8),
      OSSL_PARAM_construct_end(),
  };
  int derived = EVP_KDF_derive(context, out, length, parameters) > 0;
  EVP_KDF_CTX_free(context);
  return derived;
}

int copenssl_ticket_secret(const uint8_t *given, size_t length, uint8_t secret[COPENSSL_SECRET_BYTES]) {
  if (pthread_once(&prepared, prepare) != 0) return 0;
  return derive(given, length, "berth session tickets", 1, secret, COPENSSL_SECRET_BYTES);
}

// The keys of the last, this and the next epoch, of whatever secret this thread used last. Workers have one secret each, so
// they derive three keys every two hours and share nothing.
static __thread struct {
  uint8_t secret[COPENSSL_SECRET_BYTES];
  int64_t epoch;
  int filled;
  ticket_keys keys[3];
} known;

static ticket_keys *current_keys(const extras *extra) {
  int64_t epoch = ((int64_t)time(NULL) + extra->clock_offset) / COPENSSL_TICKET_EPOCH_SECONDS;
  if (known.filled && known.epoch == epoch && memcmp(known.secret, extra->ticket_secret, sizeof known.secret) == 0)
    return known.keys;
  known.filled = 0;
  for (int i = 0; i < 3; i++)
    if (!derive(extra->ticket_secret, sizeof extra->ticket_secret, "epoch", (uint64_t)(epoch - 1 + i),
                (uint8_t *)&known.keys[i], sizeof known.keys[i]))
      return NULL;
  memcpy(known.secret, extra->ticket_secret, sizeof known.secret);
  known.epoch = epoch;
  known.filled = 1;
  return known.keys;
}

// OpenSSL asks for the key of a new ticket, or of the one with this name. 0: unknown, make a full handshake; 2: good, but
// give the client a newer one.
static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                      int encrypt) {
  extras *extra = extras_of(SSL_get_SSL_CTX(ssl));
  ticket_keys *keys = extra ? current_keys(extra) : NULL;
  if (!keys) return -1;
  int which = 1;
  if (encrypt) {
    memcpy(name, keys[1].name, sizeof keys[1].name);
    if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(ticket_cipher)) <= 0) return -1;
  } else {
    for (which = 0; which < 3; which++)
      if (memcmp(name, keys[which].name, sizeof keys[which].name) == 0) break;
    if (which == 3) return 0;
  }
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, keys[which].mac_key, sizeof keys[which].mac_key),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, "SHA256", 0),
      OSSL_PARAM_construct_end(),
  };
  int ready = encrypt ? EVP_EncryptInit_ex2(cipher, ticket_cipher, keys[which].cipher_key, iv, NULL)
                      : EVP_DecryptInit_ex2(cipher, ticket_cipher, keys[which].cipher_key, iv, NULL);
  if (!ready || !EVP_MAC_init(mac, NULL, 0, parameters)) return -1;
  // TLS 1.3 clients use a ticket once (RFC 8446, C.4), so they get a new one each time.
  return !encrypt && (which == 0 || SSL_version(ssl) >= TLS1_3_VERSION) ? 2 : 1;
}

// MARK: names

static int find_name(const extras *extra, const char *name, SSL_CTX **context) {
  size_t low = 0, high = extra->name_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(name, extra->names[middle].name);
    if (order == 0) {
      *context = extra->names[middle].context;
      return 1;
    }
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return 0;
}

// Exact before wildcard, and whoever asks for an unknown name or for none gets the first certificate: clients that do not
// care (they reach us by address) go on, the others see that it is not for them.
static int choose_certificate(SSL *ssl, int *alert, void *user) {
  (void)alert, (void)user;
  SSL_CTX *front = SSL_get_SSL_CTX(ssl);
  const extras *extra = extras_of(front);
  const char *asked = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
  if (!extra || !asked) return SSL_TLSEXT_ERR_NOACK;
  char name[256];  // a DNS name has at most 253 characters
  size_t length = strlen(asked);
  if (length > 0 && asked[length - 1] == '.') length--;
  if (length == 0 || length >= sizeof name) return SSL_TLSEXT_ERR_NOACK;
  for (size_t i = 0; i < length; i++) name[i] = asked[i] >= 'A' && asked[i] <= 'Z' ? (char)(asked[i] + 32) : asked[i];
  name[length] = 0;
  SSL_CTX *context = NULL;
  int found = find_name(extra, name, &context);
  char *dot = found ? NULL : strchr(name, '.');
  if (dot && dot > name) {
    dot[-1] = '*';
    found = find_name(extra, dot - 1, &context);
  }
  if (!found) return SSL_TLSEXT_ERR_NOACK;
  if (context && context != front && !SSL_set_SSL_CTX(ssl, context)) return SSL_TLSEXT_ERR_ALERT_FATAL;
  return SSL_TLSEXT_ERR_OK;
}

int copenssl_add_name(SSL_CTX *front, const char *name, SSL_CTX *context) {
  extras *extra = extras_of(front);
  if (!extra) return 0;
  if (extra->name_count > 0 && strcmp(extra->names[extra->name_count - 1].name, name) >= 0) return 0;
  if (extra->name_count == extra->name_capacity) {
    size_t capacity = extra->name_capacity ? 2 * extra->name_capacity : 8;
    named *names = OPENSSL_realloc(extra->names, capacity * sizeof *names);
    if (!names) return 0;
    extra->names = names;
    extra->name_capacity = capacity;
  }
  char *copy = OPENSSL_strdup(name);
  if (!copy) return 0;
  if (context == front) context = NULL;
  if (context && !SSL_CTX_up_ref(context)) {
    OPENSSL_free(copy);
    return 0;
  }
  extra->names[extra->name_count++] = (named){copy, context};
  return 1;
}

// MARK: OCSP

static int staple_answer(SSL *ssl, void *user) {
  (void)user;
  const extras *extra = extras_of(SSL_get_SSL_CTX(ssl));
  X509 *leaf = SSL_get_certificate(ssl);
  if (!extra || !leaf) return SSL_TLSEXT_ERR_NOACK;
  for (size_t i = 0; i < extra->staple_count; i++) {
    const staple *one = &extra->staples[i];
    if (one->leaf != leaf || one->until <= (int64_t)time(NULL) + extra->clock_offset) continue;
    uint8_t *copy = OPENSSL_memdup(one->der, one->length);  // OpenSSL frees it
    if (!copy) return SSL_TLSEXT_ERR_NOACK;
    if (SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)one->length) == 1) return SSL_TLSEXT_ERR_OK;
    OPENSSL_free(copy);
  }
  return SSL_TLSEXT_ERR_NOACK;
}

int copenssl_staple(SSL_CTX *context, X509 *leaf, const uint8_t *der, size_t length, int64_t until) {
  extras *extra = extras_of(context);
  if (!extra || extra->staple_count == sizeof extra->staples / sizeof *extra->staples) return 0;
  uint8_t *copy = OPENSSL_memdup(der, length);
  if (!copy) return 0;
  extra->staples[extra->staple_count++] = (staple){leaf, copy, length, until};
  return SSL_CTX_set_tlsext_status_cb(context, staple_answer) == 1;
}

static int64_t unix_seconds(const ASN1_TIME *when) {
  struct tm parts;
  if (!when || ASN1_TIME_to_tm(when, &parts) != 1) return INT64_MAX;
  return (int64_t)timegm(&parts);
}

int copenssl_check_ocsp(const uint8_t *der, size_t length, X509 *leaf, int64_t clock_offset, int64_t *until) {
  const unsigned char *at = der;
  OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &at, (long)length);
  int result = COPENSSL_OCSP_MALFORMED;
  OCSP_BASICRESP *basic = NULL;
  *until = 0;
  if (!response || at != der + length) goto end;
  result = COPENSSL_OCSP_FAILED;
  if (OCSP_response_status(response) != OCSP_RESPONSE_STATUS_SUCCESSFUL) goto end;
  result = COPENSSL_OCSP_MALFORMED;
  if (!(basic = OCSP_response_get1_basic(response))) goto end;
  result = COPENSSL_OCSP_OTHER;
  for (int i = 0; i < OCSP_resp_count(basic); i++) {
    OCSP_SINGLERESP *single = OCSP_resp_get0(basic, i);
    ASN1_INTEGER *serial = NULL;
    const OCSP_CERTID *id = OCSP_SINGLERESP_get0_id(single);
    // The functions below do not change what they are given, they only lack the const.
    if (OCSP_id_get0_info(NULL, NULL, NULL, &serial, (OCSP_CERTID *)(uintptr_t)id) != 1 ||
        ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(leaf)) != 0)
      continue;
    ASN1_GENERALIZEDTIME *next = NULL;
    (void)OCSP_single_get0_status(single, NULL, NULL, NULL, &next);
    *until = unix_seconds(next);
    result = *until > (int64_t)time(NULL) + clock_offset ? COPENSSL_OCSP_GOOD : COPENSSL_OCSP_EXPIRED;
    break;
  }
end:
  OCSP_BASICRESP_free(basic);
  OCSP_RESPONSE_free(response);
  ERR_clear_error();
  return result;
}

// MARK: contexts

SSL_CTX *copenssl_server_context(const copenssl_server_settings *settings) {
  if (pthread_once(&prepared, prepare) != 0 || extras_index < 0 || !ticket_cipher || !hkdf) return NULL;
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  if (!context) return NULL;
  extras *extra = OPENSSL_zalloc(sizeof *extra);
  if (!extra || SSL_CTX_set_ex_data(context, extras_index, extra) != 1) {
    OPENSSL_free(extra);
    SSL_CTX_free(context);
    return NULL;
  }
  memcpy(extra->ticket_secret, settings->ticket_secret, sizeof extra->ticket_secret);
  extra->clock_offset = settings->clock_offset;
  int good = copenssl_configure_server(context) == 1 &&
             SSL_CTX_set_min_proto_version(context, settings->minimum_version) == 1 &&
             SSL_CTX_set_num_tickets(context, (size_t)settings->tickets) == 1 &&
             SSL_CTX_set_tlsext_ticket_key_evp_cb(context, ticket_key) == 1 &&
             SSL_CTX_set_tlsext_servername_callback(context, choose_certificate) == 1 &&
             SSL_CTX_set_session_id_context(context, settings->session_context, sizeof settings->session_context) == 1;
  // The callback above serves both versions; TLS 1.2 has no number of tickets, so that "none" needs the option.
  if (settings->tickets == 0) SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
  // A ticket lives as long as its epoch and the next one are, at the longest.
  SSL_CTX_set_timeout(context, COPENSSL_TICKET_EPOCH_SECONDS);
  if (good && settings->client_store) {
    SSL_CTX_set1_cert_store(context, settings->client_store);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | (settings->client_required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    STACK_OF(X509_NAME) *names = sk_X509_NAME_deep_copy(settings->client_names, X509_NAME_dup, X509_NAME_free);
    if (names) SSL_CTX_set_client_CA_list(context, names);
    good = names != NULL;
  }
  if (good) return context;
  SSL_CTX_free(context);
  return NULL;
}

int copenssl_add_identity(SSL_CTX *context, X509 *leaf, EVP_PKEY *key, STACK_OF(X509) * chain) {
  return SSL_CTX_use_cert_and_key(context, leaf, key, chain, 1);
}

// MARK: files

BIO *copenssl_text(const uint8_t *bytes, size_t length) { return BIO_new_mem_buf(bytes, (int)length); }

// A key with a pass phrase would make OpenSSL ask at the terminal; a daemon has none.
static int no_password(char *into, int capacity, int writing, void *user) {
  (void)into, (void)capacity, (void)writing, (void)user;
  return -1;
}

X509 *copenssl_next_certificate(BIO *text) {
  X509 *certificate = PEM_read_bio_X509(text, NULL, no_password, NULL);
  unsigned long error = certificate ? 0 : ERR_peek_last_error();
  // The end of the text is no error.
  if (ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE) ERR_clear_error();
  return certificate;
}

EVP_PKEY *copenssl_private_key(BIO *text) { return PEM_read_bio_PrivateKey(text, NULL, no_password, NULL); }
int copenssl_fits(X509 *leaf, EVP_PKEY *key) { return X509_check_private_key(leaf, key); }
STACK_OF(X509) * copenssl_new_chain(void) { return sk_X509_new_null(); }
int copenssl_extend_chain(STACK_OF(X509) * chain, X509 *certificate) {
  if (X509_up_ref(certificate) != 1) return 0;
  if (sk_X509_push(chain, certificate) > 0) return 1;
  X509_free(certificate);
  return 0;
}
void copenssl_free_chain(STACK_OF(X509) * chain) { sk_X509_pop_free(chain, X509_free); }

static void write_line(BIO *out, const ASN1_STRING *text) {
  const unsigned char *bytes = ASN1_STRING_get0_data(text);
  int length = ASN1_STRING_length(text);
  // A NUL or a line break inside could make one name look like another.
  for (int i = 0; i < length; i++)
    if (bytes[i] <= ' ' || bytes[i] >= 127) return;
  BIO_write(out, bytes, length);
  BIO_write(out, "\n", 1);
}

static char *take_text(BIO *out) {
  char *bytes = NULL;
  long length = BIO_get_mem_data(out, &bytes);
  char *copy = OPENSSL_malloc((size_t)length + 1);
  if (copy) {
    memcpy(copy, bytes, (size_t)length);
    copy[length] = 0;
  }
  BIO_free(out);
  return copy;
}

char *copenssl_names(X509 *certificate) {
  BIO *out = BIO_new(BIO_s_mem());
  if (!out) return NULL;
  GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
  if (names) {
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
      const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
      if (name->type == GEN_DNS) write_line(out, name->d.dNSName);
    }
    GENERAL_NAMES_free(names);
  } else {
    const X509_NAME *subject = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at >= 0) write_line(out, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  }
  ERR_clear_error();
  return take_text(out);
}

void copenssl_free(void *memory) { OPENSSL_free(memory); }
int64_t copenssl_not_after(X509 *certificate) { return unix_seconds(X509_get0_notAfter(certificate)); }

int copenssl_random(uint8_t *into, size_t length) { return RAND_bytes(into, (int)length) == 1; }
// MARK: client certificates

X509_STORE *copenssl_new_store(void) { return X509_STORE_new(); }
STACK_OF(X509_NAME) * copenssl_new_names(void) { return sk_X509_NAME_new_null(); }
void copenssl_free_store(X509_STORE *store) { X509_STORE_free(store); }
void copenssl_free_names(STACK_OF(X509_NAME) * names) { sk_X509_NAME_pop_free(names, X509_NAME_free); }

int copenssl_trust(X509_STORE *store, STACK_OF(X509_NAME) * names, X509 *certificate) {
  if (X509_STORE_add_cert(store, certificate) != 1) return 0;
  X509_NAME *name = X509_NAME_dup(X509_get_subject_name(certificate));
  if (name && sk_X509_NAME_push(names, name) > 0) return 1;
  X509_NAME_free(name);
  return 0;
}

X509 *copenssl_client_certificate(SSL *ssl) {
  if (SSL_get_verify_result(ssl) != X509_V_OK) return NULL;
  return SSL_get1_peer_certificate(ssl);
}

static char *name_text(const X509_NAME *name) {
  BIO *out = BIO_new(BIO_s_mem());
  if (!out) return NULL;
  X509_NAME_print_ex(out, name, 0, XN_FLAG_RFC2253);  // escapes control characters and all that is not ASCII
  return take_text(out);
}

char *copenssl_subject(X509 *certificate) { return name_text(X509_get_subject_name(certificate)); }
char *copenssl_issuer(X509 *certificate) { return name_text(X509_get_issuer_name(certificate)); }

char *copenssl_serial(X509 *certificate) {
  BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
  char *text = number ? BN_bn2hex(number) : NULL;
  BN_free(number);
  return text;
}

int copenssl_fingerprint(X509 *certificate, uint8_t digest[32]) {
  return X509_digest(certificate, EVP_sha256(), digest, NULL);
}
