/* One call over OpenSSL by a program that looks at the answer before it takes it: `peek PORT CA_FILE REQUEST_FILE`. */
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *what) {
    fprintf(stderr, "peek: %s\n", what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 4) die("three arguments");
    static char request[65536], seen[65536], taken[65536];
    FILE *file = fopen(argv[3], "rb");
    if (!file) die("no request");
    size_t length = fread(request, 1, sizeof request, file);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!SSL_CTX_load_verify_locations(context, argv[2], NULL)) die("no authority");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    BIO *bio = BIO_new_ssl_connect(context);
    char address[64];
    snprintf(address, sizeof address, "localhost:%s", argv[1]);
    BIO_set_conn_hostname(bio, address);
    SSL *ssl;
    BIO_get_ssl(bio, &ssl);
    SSL_set_tlsext_host_name(ssl, "localhost");
    if (BIO_do_connect(bio) <= 0) die("no connection");
    if (SSL_write(ssl, request, (int)length) != (int)length) die("not written");
    for (;;) {
        int first = SSL_peek(ssl, seen, sizeof seen);
        int again = first > 0 ? SSL_peek(ssl, seen, sizeof seen) : 0;
        int read = SSL_read(ssl, taken, sizeof taken);
        if (read <= 0) break;
        if (again < first || read < first || memcmp(seen, taken, (size_t)first)) die("not what was seen before");
    }
    BIO_free_all(bio);
    return 0;
}
