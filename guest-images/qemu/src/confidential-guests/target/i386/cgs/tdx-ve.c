/*
 * Emulated Intel TDX guest for TCG: virtualization exceptions (#VE)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "cgs/tdx.h"

#define EXCP14_VE   20

/* As tdx_inject_ve() of the TDX module 1.5 (td_other_exits.c). */
void tdx_raise_ve(CPUX86State *env, uint32_t reason, uint64_t qualification,
                  uint64_t gla, uint64_t gpa, uint64_t length, uintptr_t ra)
{
    if (env->cgs.ve.valid) {
        raise_exception_err_ra(env, EXCP08_DBLE, 0, ra);
    }
    env->cgs.ve.valid = 1;
    env->cgs.ve.reason = reason;
    env->cgs.ve.qualification = qualification;
    env->cgs.ve.gla = gla;
    env->cgs.ve.gpa = gpa;
    env->cgs.ve.length = length;
    raise_exception_ra(env, EXCP14_VE, ra);
}

uint64_t tdx_veinfo_get(CPUX86State *env)
{
    bool valid = env->cgs.ve.valid;

    env->cgs.ve.valid = 0;
    env->regs[R_ECX] = valid ? env->cgs.ve.reason : 0;
    env->regs[R_EDX] = valid ? env->cgs.ve.qualification : 0;
    env->regs[8] = valid ? env->cgs.ve.gla : 0;
    env->regs[9] = valid ? env->cgs.ve.gpa : 0;
    env->regs[10] = valid ? env->cgs.ve.length : 0;
    return valid ? TDX_SUCCESS : TDX_NO_VALID_VE_INFO;
}

/* Exit qualification of an EPT violation (SDM, table 28-7) */
static uint64_t ept_qualification(const CgsAccess *acc)
{
    uint64_t q = acc->type == CGS_TCG_ACCESS_WRITE ? 2 :
                 acc->type == CGS_TCG_ACCESS_FETCH ? 4 : 1;

    if (acc->type == CGS_TCG_ACCESS_CALL) {
        return q;
    }
    /* linear address valid; its translation, not a page table */
    return q | 0x80 | (acc->type == CGS_TCG_ACCESS_WALK ? 0 : 0x100);
}

static void convert(CPUX86State *env, hwaddr gpa, bool to_shared)
{
    uint64_t done;

    cgs_convert(env, gpa & TARGET_PAGE_MASK, 1, to_shared, CGS_EVF_IMPLICIT,
                &done, NULL);
    tdx_demote(gpa);
}

bool tdx_inject(CPUX86State *env, const CgsAccess *acc,
                CgsTcgViolationKind kind, const char **detail)
{
    switch (kind) {
    case CGS_TCG_VIOLATION_KIND_SHARED_ACCESS:
        /* KVM has its user space convert the page (KVM_EXIT_MEMORY_FAULT) */
        convert(env, acc->gpa, true);
        return true;
    case CGS_TCG_VIOLATION_KIND_PRIVATE_ACCESS:
        convert(env, acc->gpa, false);
        /* fall through: now it is pending */
    case CGS_TCG_VIOLATION_KIND_UNACCEPTED:
        if (tdx_guest()->pending_ve_disable) {
            *detail = "#VE is disabled for pending pages, so the TD exits "
                      "with an EPT violation that KVM cannot resolve";
            return false;
        }
        tdx_raise_ve(env, TDX_EXIT_EPT_VIOLATION, ept_qualification(acc),
                     acc->type == CGS_TCG_ACCESS_CALL ? 0 : acc->gva,
                     acc->gpa & TARGET_PAGE_MASK, 0, acc->ra);
    case CGS_TCG_VIOLATION_KIND_BAD_ACCEPT:
        if (acc->state == CGS_TCG_STATE_SHARED) {
            return true;        /* the caller converts */
        }
        /* fall through */
    case CGS_TCG_VIOLATION_KIND_NO_MEMORY:
        *detail = "EPT violation on a private address without memory";
        return false;
    case CGS_TCG_VIOLATION_KIND_SHARED_CODE:
        env->cr[2] = acc->gva;
        raise_exception_err_ra(env, EXCP0E_PAGE,
                               PG_ERROR_P_MASK | PG_ERROR_RSVD_MASK |
                               (acc->type == CGS_TCG_ACCESS_FETCH ?
                                PG_ERROR_I_D_MASK : 0), acc->ra);
    default:
        return false;
    }
}

/*
 * Hosts leave shared addresses without memory so that the CPU turns the EPT
 * violation into #VE by itself.
 */
void tdx_mmio(CPUX86State *env, const CgsAccess *acc)
{
    tdx_raise_ve(env, TDX_EXIT_EPT_VIOLATION, ept_qualification(acc), acc->gva,
                 acc->gpa | cgs_addr_bit, 0, acc->ra);
}

/*
 * MSRs that do not exit, or that the module answers for: msr_config_lookup.c and
 * td_msr_access.c of the TDX module 1.5. Any other raises #VE. Those that depend
 * on a TD's configuration (perfmon, PT, LBR, user interrupts) are none of this
 * TD's, and TCG does not have them.
 */
static bool native_msr(uint32_t msr, bool write)
{
    switch (msr) {
    case 0x10:                              /* TIME_STAMP_COUNTER */
    case 0x1a0:                             /* MISC_ENABLE */
        return !write;
    case 0x48: case 0x49: case 0x10b:       /* SPEC_CTRL, PRED_, FLUSH_CMD */
    case 0xbd:                              /* XAPIC_DISABLE_STATUS */
    case 0x10a:                             /* ARCH_CAPABILITIES */
    case 0x122:                             /* TSX_CTRL */
    case 0x174 ... 0x176:                   /* SYSENTER */
    case 0x1c4 ... 0x1c5:                   /* XFD */
    case 0x1d9:                             /* DEBUGCTL */
    case 0x277:                             /* PAT */
    case 0x600:                             /* DS_AREA */
    case 0x6a0: case 0x6a2:                 /* CET */
    case 0x6a4 ... 0x6a8:
    case 0x6e1:                             /* PKRS */
    case 0x808 ... 0x80c: case 0x80e:       /* x2APIC: TPR, PPR, EOI */
    case 0x810 ... 0x827:                   /* ISR, TMR, IRR */
    case 0x83f:                             /* SELF_IPI */
    case 0xda0:                             /* XSS */
    case 0xc0000080 ... 0xc0000082:         /* EFER, STAR, LSTAR, not CSTAR */
    case 0xc0000084:                        /* FMASK */
    case 0xc0000100 ... 0xc0000103:         /* FS, GS, KERNEL_GS, TSC_AUX */
        return true;
    }
    return false;
}

/* Length of an instruction that is intercepted: no operands in memory. */
static unsigned insn_length(CPUX86State *env, uint64_t rip)
{
    unsigned n = 0;
    uint8_t byte;

    for (;;) {
        byte = cpu_ldub_code(env, env->segs[R_CS].base + rip + n++);
        switch (byte) {
        case 0x26: case 0x2e: case 0x36: case 0x3e:     /* segments */
        case 0x64: case 0x65:
        case 0x66: case 0x67:                           /* sizes */
        case 0xf2: case 0xf3:                           /* REP */
            continue;
        case 0x40 ... 0x4f:                             /* REX */
            if (env->hflags & HF_CS64_MASK) {
                continue;
            }
            break;
        case 0x0f:                                      /* two bytes */
        case 0xe4 ... 0xe7:                             /* immediate port */
            return n + 1;
        }
        return n;
    }
}

/* Exit qualification of an I/O instruction (SDM, table 28-5), from SVM's */
static uint64_t io_qualification(uint64_t param)
{
    unsigned size = param >> SVM_IOIO_SIZE_SHIFT & 7;

    return (size - 1) | (param & SVM_IOIO_TYPE_MASK ? 8 : 0) |
           (param & SVM_IOIO_STR_MASK ? 16 : 0) |
           (param & SVM_IOIO_REP_MASK ? 32 : 0) | (param & 0xffff0000);
}

void tdx_intercept(CPUX86State *env, uint32_t exit_code, uint64_t param,
                   uintptr_t ra)
{
    bool user = env->hflags & HF_CPL_MASK;
    uint64_t qualification = 0;
    uint32_t reason;

    if (env->cgs.in_vmgexit) {
        return;                 /* the host does it */
    }
    switch (exit_code) {
    case SVM_EXIT_CPUID:
        /* the module answers for all leaves but the hypervisor's */
        if ((env->regs[R_EAX] >> 28 & 0xf) != 4 &&
            !(env->cgs.ve.cpuid_ve >> user & 1)) {
            return;
        }
        reason = TDX_EXIT_CPUID;
        break;
    case SVM_EXIT_HLT:
        reason = TDX_EXIT_HLT;
        break;
    case SVM_EXIT_IOIO:
        reason = TDX_EXIT_IO;
        qualification = io_qualification(param);
        break;
    case SVM_EXIT_MSR:
        if (native_msr(env->regs[R_ECX], param)) {
            return;
        }
        reason = param ? TDX_EXIT_WRMSR : TDX_EXIT_RDMSR;
        break;
    case SVM_EXIT_WBINVD:
        reason = TDX_EXIT_WBINVD;
        break;
    case SVM_EXIT_MONITOR:
        reason = TDX_EXIT_MONITOR;
        break;
    case SVM_EXIT_MWAIT:
        reason = TDX_EXIT_MWAIT;
        break;
    default:
        return;
    }
    tdx_raise_ve(env, reason, qualification, 0, 0,
                 insn_length(env, cgs_rip(env, ra)), ra);
}
