/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: PVALIDATE and RMPADJUST
 *
 * AMD64 Architecture Programmer's Manual (AMD 24594), volume 3, chapter 4,
 * PVALIDATE and RMPADJUST; volume 2, 15.36 for the RMP. The guest runs at
 * VMPL0 only, so permissions of other VMPLs are checked but not kept.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "cgs/snp.h"

/* Return codes in EAX */
enum {
    RMP_SUCCESS = 0,
    RMP_FAIL_INPUT = 1,
    RMP_FAIL_PERMISSION = 2,
    RMP_FAIL_INUSE = 3,
    RMP_FAIL_SIZEMISMATCH = 6,
};

/* In an event's code, next to EAX: PVALIDATE changed nothing (CF) */
#define RMP_UNCHANGED (1ull << 32)

#define RMPADJUST_VMSA (1 << 16)

void snp_psmash(hwaddr gpa)
{
    /* the bit is the same in all pages of the 2 MiB */
    if (!(cgs_byte(gpa) & SNP_RMP_4K)) {
        cgs_set_bits(QEMU_ALIGN_DOWN(gpa, 2 * MiB), SNP_2M_PAGES,
                     SNP_RMP_4K, 0);
    }
}

static void set_result(CPUX86State *env, uint64_t code)
{
    uint32_t eax = code;
    target_ulong flags = cpu_cc_compute_all(env);

    flags &= ~(CC_O | CC_S | CC_Z | CC_A | CC_P | CC_C);
    flags |= (eax ? 0 : CC_Z) | (code & RMP_UNCHANGED ? CC_C : 0);
    CC_SRC = flags;
    CC_OP = CC_OP_EFLAGS;
    env->regs[R_EAX] = eax;
}

static uint64_t rmp_code(CgsTcgResult result, unsigned level,
                         uint8_t before)
{
    switch (result) {
    case CGS_TCG_RESULT_OK:
        return RMP_SUCCESS;
    case CGS_TCG_RESULT_ALREADY:
        return RMP_SUCCESS | RMP_UNCHANGED;
    case CGS_TCG_RESULT_SIZE_MISMATCH:
        return RMP_FAIL_SIZEMISMATCH;
    default:
        return RMP_FAIL_INPUT;
    }
}

/*
 * The host backs 2 MiB by one RMP entry where it can: where all of it is
 * assigned to the guest and nothing made the host split the entry.
 */
static CgsTcgResult judge(const CgsTally *tally, unsigned level,
                          CgsTcgState wanted)
{
    if (tally->n[CGS_TCG_STATE_SHARED] || tally->n[CGS_TCG_STATE_NONE]) {
        return CGS_TCG_RESULT_NOT_PRIVATE;
    }
    if (level && ((tally->any & SNP_RMP_4K) || !cgs_guest->max_page_level)) {
        return CGS_TCG_RESULT_SIZE_MISMATCH;
    }
    if (tally->n[wanted] == cgs_level_pages(level)) {
        return CGS_TCG_RESULT_ALREADY;
    }
    return CGS_TCG_RESULT_OK;
}

static CgsTcgResult judge_validate(const CgsTally *tally, unsigned level)
{
    return judge(tally, level, CGS_TCG_STATE_PRIVATE);
}

static CgsTcgResult judge_rescind(const CgsTally *tally, unsigned level)
{
    return judge(tally, level, CGS_TCG_STATE_PENDING);
}

/* The operands of both instructions: RAX and ECX[0]. */
static hwaddr rmp_operand(CPUX86State *env, unsigned *level, bool *aligned,
                          bool *cbit, uintptr_t ra)
{
    vaddr gva = env->regs[R_EAX] & TARGET_PAGE_MASK;

    *level = env->regs[R_ECX] & 1;
    *aligned = !*level || QEMU_IS_ALIGNED(gva, 2 * MiB);
    if (!*aligned) {
        return 0;
    }
    return cgs_translate(env, gva, cbit, ra) & TARGET_PAGE_MASK;
}

static CgsTcgResult change_validated(CPUX86State *env, hwaddr gpa,
                                     unsigned level, bool validate,
                                     uintptr_t ra)
{
    CgsAccept op = {
        .gpa = gpa,
        .level = level,
        .set_bits = SNP_USED | (level ? 0 : SNP_RMP_4K),
        .judge = validate ? judge_validate : judge_rescind,
    };
    CgsTcgResult result = validate ? cgs_accept(env, &op, rmp_code)
                                   : cgs_rescind(env, &op, rmp_code);

    if (result == CGS_TCG_RESULT_BUSY) {
        /* #NPF, and the host has nothing to do (APM volume 2, 15.36.10) */
        cpu_loop_exit_restore(env_cpu(env), ra);
    }
    return result;
}

/*
 * The page is not assigned to the guest: #NPF. KVM makes it private, in RMP
 * entries of 4 KiB, and the instruction runs again.
 */
static bool assign(CPUX86State *env, hwaddr gpa, unsigned level, uintptr_t ra)
{
    CgsAccess acc = {
        .gpa = gpa,
        .gva = env->regs[R_EAX],
        .type = CGS_TCG_ACCESS_CALL,
        .ra = ra,
    };

    if (!cgs_make_private(env, acc, cgs_level_pages(level),
                          "PVALIDATE of a page that is not assigned to the "
                          "guest")) {
        return false;
    }
    cgs_set_bits(QEMU_ALIGN_DOWN(gpa, 2 * MiB), SNP_2M_PAGES, SNP_RMP_4K, 0);
    return true;
}

void helper_pvalidate(CPUX86State *env)
{
    uintptr_t ra = GETPC();
    bool validate = env->regs[R_EDX] & 1;
    bool aligned, cbit;
    unsigned level;
    CgsTcgResult result;
    hwaddr gpa = rmp_operand(env, &level, &aligned, &cbit, ra);

    if (!aligned || (level && !QEMU_IS_ALIGNED(gpa, 2 * MiB))) {
        cgs_count_call("pvalidate-input", RMP_FAIL_INPUT);
        set_result(env, RMP_FAIL_INPUT);
        return;
    }
    if (snp_in_low_hole(gpa)) {
        /* Linux before 6.9 validates the ROMs, snp_prep_memory() */
        set_result(env, RMP_SUCCESS);
        return;
    }
    if (!level) {
        /* the size differs: #NPF, the host splits, the guest retries */
        snp_psmash(gpa);
    }
    do {
        result = change_validated(env, gpa, level, validate, ra);
        /* beyond the page array there is no memory either */
        if (result == CGS_TCG_RESULT_INVALID) {
            result = CGS_TCG_RESULT_NOT_PRIVATE;
        }
    } while (result == CGS_TCG_RESULT_NOT_PRIVATE &&
             assign(env, gpa, level, ra));
    set_result(env, rmp_code(result, level, 0));
}

static uint64_t rmpadjust(CPUX86State *env, uintptr_t ra)
{
    uint64_t attrs = env->regs[R_EDX];
    unsigned vmpl = attrs & 0xff;
    bool vmsa = attrs & RMPADJUST_VMSA;
    bool aligned, cbit;
    unsigned level;
    CgsTally tally;
    hwaddr gpa = rmp_operand(env, &level, &aligned, &cbit, ra);
    uint64_t npages = cgs_level_pages(level);

    if (!aligned || (level && !QEMU_IS_ALIGNED(gpa, 2 * MiB)) || vmpl > 3 ||
        (vmsa && level)) {
        return RMP_FAIL_INPUT;
    }
    /* only a VMPL with fewer rights than one's own can be changed */
    if (vmpl == 0) {
        return RMP_FAIL_PERMISSION;
    }
    if (level && ((cgs_byte(gpa) & SNP_RMP_4K) || !cgs_guest->max_page_level)) {
        return RMP_FAIL_SIZEMISMATCH;
    }
    if (!level) {
        snp_psmash(gpa);
    }
    if (cgs_lock(gpa, npages, &tally)) {
        cgs_unlock(gpa, npages);
    } else if (cgs_is_ram(gpa)) {
        /* #NPF, as for PVALIDATE */
        cpu_loop_exit_restore(env_cpu(env), ra);
    } else {
        return RMP_FAIL_INPUT;
    }
    if (tally.n[CGS_TCG_STATE_PRIVATE] != npages) {
        CgsAccess acc = {
            .gpa = gpa,
            .gva = env->regs[R_EAX],
            .type = CGS_TCG_ACCESS_CALL,
            .state = tally.first & CGS_STATE_MASK,
            .ra = ra,
        };
        /* the page is not validated: #VC, as for any access */
        cgs_violation(env, &acc, CGS_TCG_VIOLATION_KIND_UNACCEPTED,
                      "RMPADJUST of a page that is not validated");
    }
    if (snp_vmsa_in_use(gpa)) {
        return RMP_FAIL_INUSE;
    }
    if (vmsa != !!(tally.first & SNP_VMSA)) {
        cgs_set_bits(gpa, 1, vmsa ? SNP_VMSA : 0, vmsa ? 0 : SNP_VMSA);
        cgs_flush_all_tlbs(env);
    }
    if (vmsa && cgs_fault(env, CGS_TCG_FAULT_KIND_PROTECTED_WRITE, gpa, 1)) {
        tlb_flush_page(env_cpu(env), env->regs[R_EAX]);
        cpu_stb_data_ra(env, env->regs[R_EAX], 0, ra);
    }
    return RMP_SUCCESS;
}

void helper_rmpadjust(CPUX86State *env)
{
    uint64_t code = rmpadjust(env, GETPC());

    cgs_count_call("rmpadjust", (uint32_t)code);
    set_result(env, code);
}
