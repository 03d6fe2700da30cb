// What BoringSSL's functions look like from outside: reports of errors with file, reason and line.
struct connection { char *pending; unsigned long pending_size; int quic, ready, broken; };
volatile int sink;
__attribute__((noinline, noclone)) void put_error(int library, int unused, int reason, const char *file, unsigned line) {
  sink = library + reason + file[0] + line;
}
__attribute__((noinline, noclone)) int fill(struct connection *ssl) { return sink + ssl->ready; }
#ifdef MOVED
__attribute__((noinline, noclone, used)) int other(int x) { for (int i = 0; i < 1000; i++) sink += x * i; return sink; }
#endif
#ifndef SOURCE
#define SOURCE "third_party/boringssl/ssl/ssl_lib.cc"
#endif
#define REPORT_AT(reason, at) put_error(16, 0, reason, SOURCE, at)
#define BODY_OF_WRITE(line)                                                                                       \
  {                                                                                                               \
    if (ssl->quic) { REPORT_AT(66, line); return -1; }                                                            \
    if (!ssl->pending) { REPORT_AT(226, line + 5); return -1; }                                                   \
    if (!ssl->ready) { int filled = fill(ssl); if (filled < 0) return filled; if (!filled) { REPORT_AT(215, line + 20); return -1; } } \
    if (size < 0) { REPORT_AT(111, line + 26); return -1; }                                                       \
    for (int i = 0; i < size; i++) sink += buffer[i];                                                             \
    return size;                                                                                                  \
  }
__attribute__((noinline, noclone)) int SSL_peek(struct connection *ssl, char *buffer, int size) {
  if (ssl->quic) { REPORT_AT(66, 930); return -1; }
  int filled = fill(ssl);
  if (filled <= 0) return filled;
  for (int i = 0; i < size; i++) buffer[i] = ssl->pending[i];
  return size;
}
__attribute__((noinline, noclone)) int SSL_read(struct connection *ssl, char *buffer, int size) {
  if (ssl->quic) { REPORT_AT(66, 933); return -1; }
  int filled = fill(ssl);
  if (filled <= 0) return filled;
  for (int i = 0; i < size; i++) buffer[i] = ssl->pending[i];
  ssl->pending += size;
  ssl->pending_size -= size;
  return size;
}
__attribute__((noinline, noclone)) int SSL_write(struct connection *ssl, const char *buffer, int size) BODY_OF_WRITE(955)
__attribute__((noinline, noclone)) int SSL_shutdown(struct connection *ssl) {
  if (!ssl->pending) { REPORT_AT(226, 1021); return -1; }
  if (ssl->pending_size) { REPORT_AT(291, 1068); return -1; }
  return fill(ssl);
}
#ifdef TWICE
__attribute__((noinline, noclone)) int another(struct connection *ssl, const char *buffer, int size) BODY_OF_WRITE(1955)
#endif
int main(int argc, char **argv) {
  struct connection ssl = {argv[0], 1, argc, 1, 0};
  char buffer[64];
  int done = SSL_write(&ssl, argv[0], argc) + SSL_read(&ssl, buffer, argc) + SSL_peek(&ssl, buffer, argc) + SSL_shutdown(&ssl);
#ifdef TWICE
  done += another(&ssl, argv[0], argc);
#endif
  return done + buffer[0];
}
