// What AWS-LC's AEAD calls look like from outside, in a program that has rustls.
const char panic[] = "/registry/rustls-0.23.46/src/conn.rs";
volatile unsigned long sink;
__attribute__((noinline, noclone)) void put_error(int library, int unused, int reason, const char *file, unsigned line) { sink = library + reason + file[0] + line; }
#define REPORT(reason, line) put_error(30, 0, reason, "crypto/fipsmodule/cipher/aead.c", line)
typedef unsigned long size;
__attribute__((noinline, noclone)) int EVP_AEAD_CTX_seal(void *context, char *out, size *out_size, size limit, const char *nonce, size nonce_size, const char *in, size in_size, const char *ad, size ad_size) {
  if (in_size > limit + 9) { REPORT(117, 172); return 0; }
  if (limit < in_size) { REPORT(103, 177); return 0; }
  if (in == out) { REPORT(115, 182); return 0; }
  for (size i = 0; i < in_size; i++) out[i] = in[i] ^ nonce[i % nonce_size] ^ ad[i % ad_size];
  *out_size = in_size;
  return 1;
}
__attribute__((noinline, noclone)) int EVP_AEAD_CTX_seal_scatter(void *context, char *out, char *tag, size *tag_size, size limit, const char *nonce, size nonce_size, const char *in, size in_size) {
  if (in == out) { REPORT(115, 219); return 0; }
  for (size i = 0; i < in_size; i++) out[i] = in[i] ^ nonce[i % nonce_size] ^ limit;
  *tag_size = tag[0];
  return 1;
}
__attribute__((noinline, noclone)) int EVP_AEAD_CTX_open(void *context, char *out, size *out_size, size limit, const char *nonce, size nonce_size, const char *in, size in_size, const char *ad, size ad_size) {
  if (in == out) { REPORT(115, 244); return 0; }
  if (in_size < 16) { REPORT(101, 261); return 0; }
  if (limit < in_size) { REPORT(103, 267); return 0; }
  for (size i = 0; i < in_size; i++) out[i] = in[i] ^ nonce[i % nonce_size] ^ ad[i % ad_size];
  *out_size = in_size;
  return 1;
}
__attribute__((noinline, noclone)) int EVP_AEAD_CTX_open_gather(void *context, char *out, const char *in, size in_size) {
  if (in == out) { REPORT(115, 297); return 0; }
  return in_size > sink;
}
int main(int argc, char **argv) {
  char out[64];
  size done = panic[argc];
  return EVP_AEAD_CTX_seal(argv, out, &done, 64, argv[0], 12, argv[0], argc, argv[0], 5) + EVP_AEAD_CTX_open(argv, out, &done, 64, argv[0], 12, argv[0], argc, argv[0], 5) +
         EVP_AEAD_CTX_seal_scatter(argv, out, out, &done, 16, argv[0], 12, argv[0], argc) + EVP_AEAD_CTX_open_gather(argv, out, argv[0], argc);
}
