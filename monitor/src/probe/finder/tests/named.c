// Functions of OpenSSL's interface; each has a constant that no other has.
#define MARK(n) __asm__ volatile("movabs $" #n ", %%rax" ::: "rax")
#ifndef ONLY_WRITES
int SSL_read(void *ssl, void *buffer, int size) { MARK(0x5111111111111102); return size; }
#endif
int SSL_write(void *ssl, const void *buffer, int size) { MARK(0x5111111111111101); return size; }
int SSL_write_ex(void *ssl, const void *buffer, unsigned long size, unsigned long *written) { MARK(0x5111111111111103); *written = size; return 1; }
void SSL_free(void *ssl) { MARK(0x5111111111111104); }
#ifdef BORINGSSL
void SSL_CTX_set_grease_enabled(void *context, int enabled) {}
#endif
#ifdef PROGRAM
int main(int argc, char **argv) { return SSL_write(argv, argv, SSL_read(argv, argv, argc)); }
#endif
