/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: #VC, and what else follows where hardware intercepts
 *
 * AMD64 Architecture Programmer's Manual (AMD 24593), volume 2: 15.35.4 for the
 * exits that raise #VC, 15.35.5 for #VC itself, 15.36.10 for RMP checks.
 * What a host does with nested page faults is KVM's and QEMU's: a C bit that
 * does not fit converts the page (KVM_EXIT_MEMORY_FAULT).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "cgs/snp.h"

#define MSR_DEBUGCTL    0x1d9

static G_NORETURN void raise_vc(CPUX86State *env, uint64_t exit_code,
                                uintptr_t ra)
{
    raise_exception_err_ra(env, EXCP1D_VC, exit_code, ra);
}

/* The linear address goes into CR2 (APM volume 2, 15.36.10). */
static G_NORETURN void raise_not_validated(CPUX86State *env,
                                           const CgsAccess *acc)
{
    env->cr[2] = acc->gva;
    raise_vc(env, VC_NOT_VALIDATED, acc->ra);
}

static void convert_implicitly(CPUX86State *env, hwaddr gpa, bool to_shared)
{
    uint64_t done;

    gpa &= TARGET_PAGE_MASK;
    cgs_convert(env, gpa, 1, to_shared, CGS_EVF_IMPLICIT, &done, NULL);
    snp_psmash(gpa);
    cgs_set_bits(gpa, 1, SNP_RMP_4K, 0);
}

bool snp_inject(CPUX86State *env, const CgsAccess *acc,
                CgsTcgViolationKind kind, const char **detail)
{
    switch (kind) {
    case CGS_TCG_VIOLATION_KIND_UNACCEPTED:
        raise_not_validated(env, acc);
    case CGS_TCG_VIOLATION_KIND_SHARED_ACCESS:
        convert_implicitly(env, acc->gpa, true);
        return true;
    case CGS_TCG_VIOLATION_KIND_PRIVATE_ACCESS:
        /* the host makes the page private, and then it is not validated */
        convert_implicitly(env, acc->gpa, false);
        raise_not_validated(env, acc);
    case CGS_TCG_VIOLATION_KIND_BAD_ACCEPT:
        if (acc->state == CGS_TCG_STATE_SHARED) {
            return true;        /* the caller converts */
        }
        *detail = "#NPF for an address without memory";
        return false;
    case CGS_TCG_VIOLATION_KIND_NO_MEMORY:
        /* as MMIO; Linux refuses to handle it, for the C bit */
        raise_vc(env, VC_NPF, acc->ra);
    case CGS_TCG_VIOLATION_KIND_SHARED_BUFFER:
        /* the hypervisor reads the shared alias of the page: nothing there */
        return true;
    case CGS_TCG_VIOLATION_KIND_PROTECTED:
        *detail = "#NPF for a VMSA page, which the host cannot resolve";
        return false;
    default:
        return false;
    }
}

/*
 * OVMF's SEC phase registers a GHCB and writes to it with C = 0 without having
 * asked for a page state change: KVM and QEMU convert the page. Nothing else is
 * allowed to rely on that.
 */
static bool is_first_ghcb(CPUX86State *env, const CgsAccess *acc)
{
    hwaddr page = acc->gpa & TARGET_PAGE_MASK;

    return acc->shared && acc->state == CGS_TCG_STATE_PENDING &&
           env->cgs.ghcb_gpa == page && !(cgs_byte(page) & SNP_USED);
}

/*
 * The firmware image is in shared memory, too: QEMU copied it from there for the
 * launch. OVMF's VirtHstiDxe looks whether it is flash, with C = 0.
 */
static bool reads_shared_firmware(CPUX86State *env, const CgsAccess *acc)
{
    hwaddr page = acc->gpa & TARGET_PAGE_MASK;
    hwaddr base = 4 * GiB - cgs_guest->fw_size;

    if (!acc->shared || acc->state != CGS_TCG_STATE_PRIVATE || page < base ||
        page >= 4 * GiB) {
        return false;
    }
    convert_implicitly(env, page, true);
    memcpy(cgs_guest->fw + (page - base), cgs_guest->fw_copy + (page - base),
           TARGET_PAGE_SIZE);
    return true;
}

bool snp_tolerate(CPUX86State *env, const CgsAccess *acc)
{
    if (is_first_ghcb(env, acc)) {
        convert_implicitly(env, acc->gpa, true);
        return true;
    }
    return reads_shared_firmware(env, acc) ||
           (acc->state == CGS_TCG_STATE_NONE && snp_in_low_hole(acc->gpa));
}

bool snp_forbid(CPUX86State *env, const CgsAccess *acc, uint8_t byte,
                CgsTcgViolationKind *kind)
{
    hwaddr page = acc->gpa & TARGET_PAGE_MASK;

    /* a read of another vCPU's waits until that one leaves guest mode */
    if (likely(!(byte & SNP_VMSA)) ||
        (acc->type != CGS_TCG_ACCESS_WRITE &&
         env->cgs.vmsa_gpa != (page | SNP_VMSA_RUNS))) {
        return false;
    }
    *kind = CGS_TCG_VIOLATION_KIND_PROTECTED;
    return true;
}

void snp_mmio(CPUX86State *env, const CgsAccess *acc)
{
    raise_vc(env, VC_NPF, acc->ra);
}

/*
 * MSRs that KVM does not intercept for SEV-ES guests: those that the VMSA holds
 * (arch/x86/kvm/svm/svm.c and sev.c, sev_es_recalc_msr_intercepts(), Linux 7.3).
 */
static bool msr_is_native(uint32_t msr)
{
    switch (msr) {
    case MSR_AMD64_SEV_ES_GHCB:
    case MSR_AMD64_SEV:
    case MSR_EFER:
    case MSR_PAT:
    case MSR_STAR:
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_FMASK:
    case MSR_FSBASE:
    case MSR_GSBASE:
    case MSR_KERNELGSBASE:
    case MSR_TSC_AUX:
    case MSR_IA32_SYSENTER_CS:
    case MSR_IA32_SYSENTER_ESP:
    case MSR_IA32_SYSENTER_EIP:
    case MSR_IA32_SPEC_CTRL:
    case MSR_IA32_PRED_CMD:
    case MSR_DEBUGCTL:
    case MSR_IA32_XSS:
        return true;
    default:
        return false;
    }
}

/*
 * A point where an SVM hypervisor could intercept. HLT, PAUSE, interrupts and
 * shutdown are automatic exits: no #VC. The rest is what KVM intercepts.
 */
void snp_intercept(CPUX86State *env, uint32_t exit_code, uint64_t param,
                   uintptr_t ra)
{
    if (env->cgs.in_vmgexit) {
        return;
    }
    switch (exit_code) {
    case SVM_EXIT_MSR:
        if (msr_is_native(env->regs[R_ECX])) {
            return;
        }
        break;
    case NAE_READ_DR7:
    case NAE_WRITE_DR7:
    case SVM_EXIT_CPUID:
    case SVM_EXIT_INVD:
    case SVM_EXIT_IOIO:
    case SVM_EXIT_MONITOR:
    case SVM_EXIT_MWAIT:
    case SVM_EXIT_RDPMC:
    case SVM_EXIT_VMMCALL:
    case SVM_EXIT_WBINVD:
        break;
    default:
        return;
    }
    raise_vc(env, exit_code, ra);
}
