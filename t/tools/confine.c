/*
 * Runs a program under a policy that forbids making memory executable, or calling ppoll.
 *
 * usage: confine POLICY PROGRAM ARGUMENT...
 *
 *     mdwe     memory that was not executable cannot become executable (PR_SET_MDWE)
 *     refuse   mprotect(PROT_EXEC) fails
 *     kill     mprotect(PROT_EXEC) kills the process
 *     refuse-ppoll, kill-ppoll    the same for every ppoll
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

/* Refuses calls whose third argument has one of these bits, or every call if there are no bits. */
static int
filter(unsigned call, unsigned bits, unsigned verdict)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | (bits ? BPF_JSET : BPF_JGE) | BPF_K, bits, 0, 1),
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
        fprintf(stderr, "usage: confine mdwe|refuse|kill|refuse-ppoll|kill-ppoll PROGRAM ARGUMENT...\n");
        return 2;
    }
    if (strcmp(argv[1], "mdwe") == 0) {
        failed = prctl(PR_SET_MDWE, 1, 0, 0, 0);
    } else if (strcmp(argv[1], "refuse") == 0) {
        failed = filter(SYS_mprotect, PROT_EXEC, SECCOMP_RET_ERRNO | EPERM);
    } else if (strcmp(argv[1], "kill") == 0) {
        failed = filter(SYS_mprotect, PROT_EXEC, SECCOMP_RET_KILL_PROCESS);
    } else if (strcmp(argv[1], "refuse-ppoll") == 0) {
        failed = filter(SYS_ppoll, 0, SECCOMP_RET_ERRNO | EPERM);
    } else if (strcmp(argv[1], "kill-ppoll") == 0) {
        failed = filter(SYS_ppoll, 0, SECCOMP_RET_KILL_PROCESS);
    }
    if (failed) {
        perror(argv[1]);
        return 1;
    }
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 1;
}
