/*
 * Lets User-Mode Linux run on processors whose extended state is larger than it knows.
 *
 * User-Mode Linux 6.12 keeps 2696 bytes of a process's registers (arch/x86/um/user-offsets.c, HOST_FP_SIZE), which is
 * all up to AVX-512. Where there is AMX, the host's kernel has more, lets a part of it be read, and refuses to set a part
 * of it with EFAULT (arch/x86/kernel/fpu/regset.c, xstateregs_set). So what is set is completed here by what the host
 * has: the header that says which components are in use comes from User-Mode Linux, and none of those beyond its 2696
 * bytes ever is, since a process would have to ask the host's kernel for AMX first.
 *
 * May go when Debian's User-Mode Linux asks the host for the size.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

/* AMX's needs 11008 bytes. Only the kernel's own thread traces, so one is enough. */
static char whole[1 << 16] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...)
{
    static long (*real)(enum __ptrace_request, pid_t, void *, void *);
    va_list words;

    va_start(words, request);
    pid_t pid = va_arg(words, pid_t);
    void *address = va_arg(words, void *);
    void *data = va_arg(words, void *);
    va_end(words);

    if (!real)
        real = (long (*)(enum __ptrace_request, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && (unsigned long)address == NT_X86_XSTATE) {
        struct iovec *known = data;
        struct iovec all = {.iov_base = whole, .iov_len = sizeof(whole)};

        if (real(PTRACE_GETREGSET, pid, address, &all) == 0 && known->iov_len < all.iov_len) {
            memcpy(whole, known->iov_base, known->iov_len);
            return real(request, pid, address, &all);
        }
    }
    return real(request, pid, address, data);
}
