/* The only program of the test's images: statically linked, so that an image needs no other file. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

extern char **environ;

static void show(const char *name, const char *path) {
    char text[4096];
    int file = open(path, O_RDONLY);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (size < 0)
        return;
    text[size] = 0;
    printf("%s %s%s", name, text, size > 0 && text[size - 1] == '\n' ? "" : "\n");
    close(file);
}

static void attempt(const char *path) {
    int file = open(path, O_CREAT | O_WRONLY, 0644);
    printf("write %s: %s\n", path, file < 0 ? strerror(errno) : "ok");
}

static void fill(const char *path) {
    static char block[1 << 20];
    long written = 0;
    int file = open(path, O_CREAT | O_WRONLY, 0644);
    while (written < 1024 && write(file, block, sizeof block) == sizeof block)
        written++;
    printf("fill %s: %ld MiB, %s\n", path, written, strerror(errno));
    unlink(path);
}

static int report(int count, char **arguments) {
    for (int i = 2; i < count; i++)
        printf("argument [%s]\n", arguments[i]);
    for (char **variable = environ; *variable; variable++)
        printf("variable [%s]\n", *variable);
    printf("user %d:%d\n", getuid(), getgid());
    printf("parent %d\n", getppid());
    show("status", "/proc/self/status");
    show("memory", "/sys/fs/cgroup/memory/memory.limit_in_bytes");
    show("memory", "/sys/fs/cgroup/memory.max");
    show("quota", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    show("quota", "/sys/fs/cgroup/cpu.max");
    show("processes", "/sys/fs/cgroup/pids/pids.max");
    show("processes", "/sys/fs/cgroup/pids.max");
    show("hosts", "/etc/hosts");
    show("given", "/given/file");
    attempt("/file");
    attempt("/given/new");
    attempt("/data/new");
    fill("/tmp/file");
    fill("/cache/file");
    return 7;
}

static void bye(int number) {
    (void)number;
    static const char text[] = "bye\n";
    if (write(1, text, sizeof text - 1) < 0)
        _exit(6);
    _exit(5);
}

static int hold(void) {
    signal(SIGTERM, bye);
    puts("ready");
    for (;;)
        pause();
}

static int stubborn(void) {
    signal(SIGTERM, SIG_IGN);
    puts("ready");
    for (;;)
        pause();
}

static int eat(void) {
    for (;;) {
        char *block = malloc(1 << 20);
        if (!block)
            return 3;
        memset(block, 1, 1 << 20);
    }
}

static int say(void) {
    char line[20001];
    memset(line, 'x', sizeof line);
    line[20000] = '\n';
    for (int i = 0; i < 4; i++) {
        dprintf(1 + i % 2, "line %d\n", i);
        usleep(30000);
    }
    if (write(1, line, sizeof line) < 0)
        return 1;
    usleep(30000);
    dprintf(2, "no end");
    return 0;
}

static int grow(void) {
    int count = 0;
    while (count < 1000) {
        pid_t child = fork();
        if (child < 0)
            break;
        if (child == 0)
            for (;;)
                pause();
        count++;
    }
    printf("grew %d: %s\n", count, strerror(errno));
    return 0;
}

static struct sockaddr_in at(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    return address;
}

static int serve(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = at("0.0.0.0", port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16))
        return 1;
    puts("ready");
    for (;;) {
        int stream = accept(listener, 0, 0);
        dprintf(stream, "hello");
        close(stream);
    }
}

static int dial(const char *host, int port) {
    struct timeval limit = {.tv_sec = 2};
    int stream = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = at(host, port);
    setsockopt(stream, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int result = connect(stream, (struct sockaddr *)&address, sizeof address);
    printf("dial %s\n", result ? strerror(errno) : "ok");
    return 0;
}

static int well(void) {
    int is_well = access("/data/well", F_OK) == 0;
    printf(is_well ? "well\n" : "not well\n");
    return !is_well;
}

int main(int count, char **arguments) {
    setvbuf(stdout, 0, _IOLBF, 0);
    const char *what = count > 1 ? arguments[1] : "";
    if (!strcmp(what, "report"))
        return report(count, arguments);
    if (!strcmp(what, "hold"))
        return hold();
    if (!strcmp(what, "stubborn"))
        return stubborn();
    if (!strcmp(what, "eat"))
        return eat();
    if (!strcmp(what, "say"))
        return say();
    if (!strcmp(what, "grow"))
        return grow();
    if (!strcmp(what, "serve") && count > 2)
        return serve(atoi(arguments[2]));
    if (!strcmp(what, "dial") && count > 3)
        return dial(arguments[2], atoi(arguments[3]));
    if (!strcmp(what, "well"))
        return well();
    return 99;
}
