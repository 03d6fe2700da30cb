// What OpenSSL 3's writes and reads look like from outside: reports of errors with the function's name.
const char version[] = "OpenSSL 3.3.99 1 Jan 2026";
volatile unsigned long sink;
__attribute__((noinline, noclone)) void set_debug(const char *file, int line, const char *function) { sink = file[0] + line + function[0]; }
#define REPORT() set_debug("ssl/ssl_lib.c", __LINE__, __func__)
#ifdef FLAGS
#define FLAG(x) x,
#else
#define FLAG(x)
#endif
__attribute__((noinline, noclone)) int ssl_write_internal(void *ssl, const char *buffer, unsigned long size, FLAG(unsigned long flags) unsigned long *written) {
  if (!ssl) { REPORT(); return -1; }
  for (unsigned long i = 0; i < size; i++) sink += buffer[i];
  *written = size;
  return 1;
}
__attribute__((noinline, noclone)) int ssl_read_internal(void *ssl, char *buffer, unsigned long size, unsigned long *got) {
  if (!ssl) { REPORT(); return -1; }
  for (unsigned long i = 0; i < size; i++) buffer[i] = sink;
  *got = size;
  return 1;
}
__attribute__((noinline, noclone)) int SSL_write(void *ssl, const char *buffer, int size) {
  unsigned long written;
  if (size < 0) { REPORT(); return -1; }
  int result = ssl_write_internal(ssl, buffer, size, FLAG(0) &written);
  return result > 0 ? (int)written : result;
}
__attribute__((noinline, noclone)) int SSL_read(void *ssl, char *buffer, int size) {
  unsigned long got;
  if (size < 0) { REPORT(); return -1; }
  int result = ssl_read_internal(ssl, buffer, size, &got);
  return result > 0 ? (int)got : result;
}
// Another one that knows the name.
__attribute__((noinline, noclone)) void bindings(void) { set_debug("bindings.c", 1, "SSL_write"); }
int main(int argc, char **argv) {
  char buffer[64];
  unsigned long written;
  sink = version[argc];
  bindings();
  return SSL_write(argv, argv[0], argc) + SSL_read(argv, buffer, argc) + ssl_write_internal(argv, argv[0], 1, FLAG(argc) &written);
}
