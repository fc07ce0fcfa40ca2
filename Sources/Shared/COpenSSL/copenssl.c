#include "COpenSSL.h"
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

static BIO_METHOD *window_method, *socket_method;
static pthread_once_t methods_made = PTHREAD_ONCE_INIT;

// MARK: the window BIO

static int window_read(BIO *bio, char *into, int length) {
  copenssl_window *window = BIO_get_data(bio);
  size_t there = window->input_length - window->input_consumed;
  BIO_clear_retry_flags(bio);
  if (there == 0 || length <= 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  size_t taken = there < (size_t)length ? there : (size_t)length;
  memcpy(into, window->input + window->input_consumed, taken);
  window->input_consumed += taken;
  return (int)taken;
}

static int window_write(BIO *bio, const char *bytes, int length) {
  copenssl_window *window = BIO_get_data(bio);
  size_t room = window->output_capacity - window->output_count;
  BIO_clear_retry_flags(bio);
  if (length <= 0) return 0;
  if (room == 0) {
    BIO_set_retry_write(bio);
    return -1;
  }
  size_t taken = room < (size_t)length ? room : (size_t)length;
  memcpy(window->output + window->output_count, bytes, taken);
  window->output_count += taken;
  return (int)taken;
}

static long plain_control(BIO *bio, int command, long number, void *pointer) {
  (void)bio, (void)number, (void)pointer;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

// MARK: the socket BIO. Its data is the descriptor in the low and the last errno in the high 32 bits.

static int socket_result(BIO *bio, ssize_t result) {
  BIO_clear_retry_flags(bio);
  if (result >= 0) return (int)result;
  uint64_t data = (uint64_t)(uintptr_t)BIO_get_data(bio) & 0xffffffffu;
  if (errno == EAGAIN || errno == EWOULDBLOCK) return -1;
  BIO_set_data(bio, (void *)(uintptr_t)(data | (uint64_t)(uint32_t)errno << 32));
  return -2;
}

static int socket_fd(BIO *bio) { return (int)(uint32_t)((uintptr_t)BIO_get_data(bio) & 0xffffffffu); }

static int socket_read(BIO *bio, char *into, int length) {
  ssize_t n;
  do n = recv(socket_fd(bio), into, (size_t)length, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
  int result = socket_result(bio, n);
  if (result == -1) BIO_set_retry_read(bio);
  return result < 0 ? -1 : result;
}

static int socket_write(BIO *bio, const char *bytes, int length) {
  ssize_t n;
  do n = send(socket_fd(bio), bytes, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
  int result = socket_result(bio, n);
  if (result == -1) BIO_set_retry_write(bio);
  return result < 0 ? -1 : result;
}

_Static_assert(sizeof(void *) == 8, "a socket BIO keeps two 32-bit numbers in a pointer");

static void make_methods(void) {
  window_method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "berth window");
  if (window_method) {
    BIO_meth_set_read(window_method, window_read);
    BIO_meth_set_write(window_method, window_write);
    BIO_meth_set_ctrl(window_method, plain_control);
  }
  socket_method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "berth socket");
  if (socket_method) {
    BIO_meth_set_read(socket_method, socket_read);
    BIO_meth_set_write(socket_method, socket_write);
    BIO_meth_set_ctrl(socket_method, plain_control);
  }
}

static BIO *new_bio(int socket, void *data) {
  if (pthread_once(&methods_made, make_methods) != 0) return NULL;
  BIO_METHOD *method = socket ? socket_method : window_method;
  BIO *bio = method ? BIO_new(method) : NULL;
  if (!bio) return NULL;
  BIO_set_data(bio, data);
  BIO_set_init(bio, 1);
  return bio;
}

BIO *copenssl_window_bio(copenssl_window *window) { return new_bio(0, window); }
BIO *copenssl_socket_bio(int fd) { return new_bio(1, (void *)(uintptr_t)(uint32_t)fd); }
int copenssl_socket_error(BIO *bio) { return (int)((uint64_t)(uintptr_t)BIO_get_data(bio) >> 32); }

int copenssl_use_bio(SSL *ssl, BIO *bio) {
  if (BIO_up_ref(bio) != 1) return 0;
  SSL_set_bio(ssl, bio, bio);
  return 1;
}

// MARK: contexts

static int choose_protocol(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_length,
                           const unsigned char *offered, unsigned int offered_length, void *user) {
  (void)ssl, (void)user;
  // HTTP/1.0 as well: a client that was told to speak it offers nothing else.
  static const unsigned char ours[] = "\x08http/1.1\x08http/1.0";
  unsigned char *found = NULL;
  if (SSL_select_next_proto(&found, chosen_length, ours, sizeof ours - 1, offered, offered_length) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;  // RFC 7301, 3.2: no_application_protocol
  *chosen = found;
  return SSL_TLSEXT_ERR_OK;
}

// TLS 1.2 suites with forward secrecy and an AEAD, so that a record's overhead is small and known. TLS 1.3's are the defaults.
static const char suites[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

static int configure(SSL_CTX *context) {
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 && SSL_CTX_set_cipher_list(context, suites) == 1;
}

int copenssl_configure_server(SSL_CTX *context) {
  // A handshake reads no record that follows it: those may not be OpenSSL's to read.
  SSL_CTX_set_read_ahead(context, 0);
  copenssl_tell_traffic(context);
  SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  // Tickets resume sessions on any thread without state; the internal cache would be one lock for all workers.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
  return configure(context) && SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384") == 1;
}

int copenssl_configure_client(SSL_CTX *context) {
  SSL_CTX_set_read_ahead(context, 1);
  return configure(context);
}

int copenssl_expect_name(SSL *ssl, const char *name, int verify) {
  unsigned char address[16];
  int literal = inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
  if (!literal && SSL_set_tlsext_host_name(ssl, name) != 1) return 0;
  SSL_set_verify(ssl, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
  if (!verify) return 1;
  return literal ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) : SSL_set1_host(ssl, name);
}

int copenssl_add_extension(X509 *certificate, int nid, const char *value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
  X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
  if (!extension) return 0;
  int added = X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  return added;
}
