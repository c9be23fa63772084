/* musl, static: its own resolver. It speaks no TLS here. */
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *host;
extern char **environ;

static const char *lookup(const char *name, const char *port, int *connected) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(name, port, &hints, &found);
    if (error) return gai_strerror(error);
    if (!connected) return "ok";
    *connected = socket(found->ai_family, SOCK_STREAM, 0);
    return connect(*connected, found->ai_addr, found->ai_addrlen) ? strerror(errno) : "ok";
}
static void *nothing(void *arg) { return arg; }
static const char *threads(void) {
    pthread_t all[8];
    for (int i = 0; i < 8; i++) if (pthread_create(&all[i], 0, nothing, 0)) return "pthread_create";
    for (int i = 0; i < 8; i++) if (pthread_join(all[i], 0)) return "pthread_join";
    return "ok";
}
static const char *child(void) {
    pid_t pid;
    int status;
    if (posix_spawn(&pid, "/bin/true", 0, 0, (char *[]){"true", 0}, environ) || waitpid(pid, &status, 0) != pid) return "posix_spawn";
    return status ? "status" : "ok";
}
static const char *file(void) {
    FILE *f = tmpfile();
    return f && fputs("x", f) >= 0 && !fclose(f) ? "ok" : strerror(errno);
}
static const char *loopback(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int s = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
    char byte;
    if (bind(s, (void *)&at, length) || listen(s, 1) || getsockname(s, (void *)&at, &length)) return strerror(errno);
    if (connect(c, (void *)&at, length) || write(c, "x", 1) != 1) return strerror(errno);
    return read(accept(s, 0, 0), &byte, 1) == 1 ? "ok" : strerror(errno);
}
static const char *names(void) {
    char own[256];
    gethostname(own, sizeof own);
    const char *error = lookup("localhost", "1", 0);
    return strcmp(error, "ok") ? error : lookup(own, "1", 0);
}
static const char *fetch(void) {
    int fd;
    static char got[256];
    const char *error = lookup(host, getenv("PORT"), &fd);
    if (strcmp(error, "ok")) return error;
    if (write(fd, "GET / HTTP/1.0\r\n\r\n", 18) != 18 || read(fd, got, sizeof got - 1) <= 0) return strerror(errno);
    return strstr(got, " 200 ") ? "ok" : "no page";
}

int main(void) {
    static char call[65536];
    FILE *frames = fdopen(3, "r+");
    if (!frames || !fgets(call, sizeof call, frames)) return 1;
    host = strstr(call, "\"method\":\"denied\"") ? "other.test" : "good.test";
    dprintf(3, "{\"type\":\"result\",\"result\":{\"version\":\"1\"");
    if (strstr(call, "\"method\":\"local\""))
        dprintf(3, ",\"threads\":\"%s\",\"child\":\"%s\",\"file\":\"%s\",\"loopback\":\"%s\",\"names\":\"%s\"", threads(), child(),
                file(), loopback(), names());
    else
        dprintf(3, ",\"fetch\":\"%s\"", fetch());
    dprintf(3, "}}\n");
    return 0;
}
