/*
 * Runs a program under a policy that forbids to make code.
 *
 * usage: confine POLICY PROGRAM ARGUMENT...
 *
 *     mdwe     nothing that was not code becomes code (PR_SET_MDWE)
 *     refuse   mprotect(PROT_EXEC) fails
 *     kill     mprotect(PROT_EXEC) ends the process
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif

static int
filter(unsigned verdict)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, verdict),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int
main(int argc, char **argv)
{
    int failed = -1;

    if (argc < 3) {
        fprintf(stderr, "usage: confine mdwe|refuse|kill PROGRAM ARGUMENT...\n");
        return 2;
    }
    if (strcmp(argv[1], "mdwe") == 0) {
        failed = prctl(PR_SET_MDWE, 1, 0, 0, 0);
    } else if (strcmp(argv[1], "refuse") == 0) {
        failed = filter(SECCOMP_RET_ERRNO | EPERM);
    } else if (strcmp(argv[1], "kill") == 0) {
        failed = filter(SECCOMP_RET_KILL_PROCESS);
    }
    if (failed) {
        perror(argv[1]);
        return 1;
    }
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 1;
}
