/* Starts a program in ways that are not `fork` and `exec`: launch WAY COMMAND... (`cgroup`: into the cgroup that AWAY names). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    struct clone_args how = {0};
    pid_t child;
    if (count < 3)
        return 2;
    if (!strcmp(arguments[1], "vfork")) {
        child = vfork();
    } else {
        if (!strcmp(arguments[1], "parent")) {
            how.flags = CLONE_PARENT;
        } else {
            how.flags = CLONE_INTO_CGROUP;
            how.exit_signal = SIGCHLD;
            how.cgroup = open(getenv("AWAY"), O_RDONLY | O_DIRECTORY);
        }
        child = syscall(SYS_clone3, &how, sizeof how);
    }
    if (child == 0) {
        execvp(arguments[2], arguments + 2);
        _exit(127);
    }
    if (child < 0) {
        perror(arguments[1]);
        return 1;
    }
    if (how.flags & CLONE_PARENT)
        return 0;
    waitpid(child, NULL, 0);
    return 0;
}
