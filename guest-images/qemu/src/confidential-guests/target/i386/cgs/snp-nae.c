/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: exits that run an instruction or an access for the guest
 *
 * GHCB specification (AMD 56421), section 4: CPUID, IOIO, MSR, RDTSC and MMIO.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "cgs/snp.h"

#define MMIO_MAX 8

void snp_nae_tsc(CPUX86State *env, SnpGhcb *g)
{
    uint64_t tsc = cpu_get_tsc(env) + env->tsc_offset;

    ghcb_set(g, SAVE_RAX, (uint32_t)tsc);
    ghcb_set(g, SAVE_RDX, tsc >> 32);
    if (g->code == SVM_EXIT_RDTSCP) {
        ghcb_set(g, SAVE_RCX, (uint32_t)env->tsc_aux);
    }
}

void snp_nae_cpuid(CPUX86State *env, SnpGhcb *g)
{
    uint32_t leaf = ghcb_get(g, SAVE_RAX);
    uint32_t eax, ebx, ecx, edx;

    /* sizes in leaf 0xd depend on XCR0 */
    if (leaf == 0xd && !ghcb_given(g, SAVE_XCR0)) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_MISSING);
        return;
    }
    cpu_x86_cpuid(env, leaf, ghcb_get(g, SAVE_RCX), &eax, &ebx, &ecx, &edx);
    ghcb_set(g, SAVE_RAX, eax);
    ghcb_set(g, SAVE_RBX, ebx);
    ghcb_set(g, SAVE_RCX, ecx);
    ghcb_set(g, SAVE_RDX, edx);
}

/*
 * Run the CPU's own RDMSR or WRMSR; false if it raised an exception, which
 * then is not delivered. QEMU raises by a jump to the CPU loop: put a landing
 * in front of it.
 */
static bool access_msr(CPUX86State *env, bool write)
{
    CPUState *cs = env_cpu(env);
    sigjmp_buf outer;
    bool ok;

    memcpy(&outer, &cs->jmp_env, sizeof(outer));
    if (sigsetjmp(cs->jmp_env, 0) == 0) {
        if (write) {
            helper_wrmsr(env);
        } else {
            helper_rdmsr(env);
        }
        ok = true;
    } else {
        cs->exception_index = -1;
        env->old_exception = -1;
        ok = false;
    }
    memcpy(&cs->jmp_env, &outer, sizeof(outer));
    return ok;
}

void snp_nae_msr(CPUX86State *env, SnpGhcb *g)
{
    bool write = g->info1 & 1;
    target_ulong saved[] = { env->regs[R_EAX], env->regs[R_ECX],
                             env->regs[R_EDX] };
    uint64_t eax, edx;
    bool ok;

    if (write && (!ghcb_given(g, SAVE_RAX) || !ghcb_given(g, SAVE_RDX))) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_MISSING);
        return;
    }
    env->regs[R_ECX] = (uint32_t)ghcb_get(g, SAVE_RCX);
    env->regs[R_EAX] = (uint32_t)ghcb_get(g, SAVE_RAX);
    env->regs[R_EDX] = (uint32_t)ghcb_get(g, SAVE_RDX);
    env->cgs.in_vmgexit = true;
    ok = access_msr(env, write);
    env->cgs.in_vmgexit = false;
    eax = env->regs[R_EAX];
    edx = env->regs[R_EDX];
    env->regs[R_EAX] = saved[0];
    env->regs[R_ECX] = saved[1];
    env->regs[R_EDX] = saved[2];
    if (!ok) {
        ghcb_answer(g, GHCB_EXCEPTION, GHCB_EVENT_GP);
    } else if (!write) {
        ghcb_set(g, SAVE_RAX, eax);
        ghcb_set(g, SAVE_RDX, edx);
    }
}

/* One port access of len bytes at buf */
static void port_access(CPUX86State *env, uint16_t port, uint8_t *buf, int len,
                        bool in)
{
    address_space_rw(&address_space_io, port, cpu_get_mem_attrs(env), buf, len,
                     !in);
}

void snp_nae_ioio(CPUX86State *env, SnpGhcb *g)
{
    uint64_t info = g->info1;
    uint64_t count = g->info2;
    int len = (info & SVM_IOIO_SIZE_MASK) >> SVM_IOIO_SIZE_SHIFT;
    bool in = info & SVM_IOIO_TYPE_MASK;
    uint16_t port = info >> 16;
    uint8_t *buf, reg[8];

    if (len != 1 && len != 2 && len != 4) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_INPUT);
        return;
    }
    if (!(info & SVM_IOIO_STR_MASK)) {
        if (!in && !ghcb_given(g, SAVE_RAX)) {
            ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_MISSING);
            return;
        }
        stq_le_p(reg, in ? 0 : ghcb_get(g, SAVE_RAX));
        port_access(env, port, reg, len, in);
        if (in) {
            ghcb_set(g, SAVE_RAX, ldq_le_p(reg));
        }
        return;
    }
    /* INS and OUTS: count elements in the scratch area */
    if (!ghcb_given(g, GHCB_SCRATCH)) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_MISSING);
        return;
    }
    count = MIN(count, GHCB_SIZE);
    buf = snp_scratch(g, count * len);
    for (; buf && count; count--, buf += len) {
        port_access(env, port, buf, len, in);
    }
}

void snp_nae_mmio(CPUX86State *env, SnpGhcb *g)
{
    bool write = g->code == NAE_MMIO_WRITE;
    hwaddr gpa = g->info1;
    uint64_t len = g->info2;
    uint8_t *buf;

    if (len > MMIO_MAX) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_INPUT);
        return;
    }
    if (!len) {
        return;
    }
    buf = snp_scratch(g, len);
    if (buf) {
        /* the host's access: it reaches no private memory */
        address_space_rw(cgs_dma_as(), gpa, cpu_get_mem_attrs(env), buf, len,
                         write);
    }
}
