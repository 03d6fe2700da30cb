/* Calls over OpenSSL: linked into the program, or (MEMFD) loaded from a file that never had a name.
 *
 * tls_client PORT CA CLIENT CALLS: the request comes from standard input. Answers with a length are read to their end. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef MEMFD
static void *library;
static void *find(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s: %s\n", name, dlerror());
        exit(1);
    }
    return found;
}
#define CALL(name) ((__typeof__(&name))find(#name))

static void load(const char *path)
{
    char name[64];
    struct stat about;
    int from = open(path, O_RDONLY), to = memfd_create("nothing", 0);
    off_t at = 0;
    if (from < 0 || fstat(from, &about) || to < 0)
        exit(1);
    while (at < about.st_size)
        if (sendfile(to, from, &at, about.st_size - at) <= 0)
            exit(1);
    snprintf(name, sizeof name, "/proc/self/fd/%d", to);
    library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
}
#else
#define CALL(name) name
#endif

static int answer(SSL *ssl)
{
    static char data[1 << 20];
    size_t have = 0, need = 0;
    while (!need || have < need) {
        int got = CALL(SSL_read)(ssl, data + have, sizeof data - 1 - have);
        if (got <= 0)
            return -1;
        data[have += got] = 0;
        char *end = strstr(data, "\r\n\r\n"), *length = strcasestr(data, "content-length:");
        if (!need && end && length)
            need = end + 4 - data + atol(length + 15);
    }
    return 0;
}

int main(int count, char **arguments)
{
    static char request[1 << 16];
    if (count < 4)
        return 2;
    size_t length = fread(request, 1, sizeof request, stdin);
#ifdef MEMFD
    load("/usr/lib/x86_64-linux-gnu/libssl.so.3");
#endif
    SSL_CTX *context = CALL(SSL_CTX_new)(CALL(TLS_client_method)());
    if (!CALL(SSL_CTX_load_verify_locations)(context, arguments[2], NULL))
        return 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to))
        return 1;
    SSL *ssl = CALL(SSL_new)(context);
    CALL(SSL_set_fd)(ssl, fd);
    if (CALL(SSL_connect)(ssl) != 1)
        return 1;
    for (int calls = atoi(arguments[3]); calls > 0; calls--)
        if (CALL(SSL_write)(ssl, request, length) <= 0 || answer(ssl))
            return 1;
    return 0;
}
