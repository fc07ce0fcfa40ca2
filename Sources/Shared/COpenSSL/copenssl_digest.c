// SHA-256 without an allocation: EVP_Digest allocates a context for each call, and a worker digests a key for each request.
// The functions are marked as deprecated in OpenSSL 3.0 in favour of EVP, and kept.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "COpenSSL.h"
#include <openssl/sha.h>

void copenssl_sha256(const uint8_t *bytes, size_t count, uint8_t digest[32]) {
  SHA256_CTX context;
  SHA256_Init(&context);
  SHA256_Update(&context, bytes, count);
  SHA256_Final(digest, &context);
}
