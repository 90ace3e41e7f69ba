/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: page state changes by the hypervisor
 *
 * The requests of the GHCB MSR protocol (GHCB specification, 2.3.1) and of the
 * Page State Change NAE event, answered as KVM does in
 * arch/x86/kvm/svm/sev.c: snp_begin_psc_msr(), snp_begin_psc() (Linux 7.3).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "cgs/snp.h"

/* GHCBData[63:32] of the MSR protocol's answer */
#define PSC_MSR_ERROR (1ull << 63)

static uint64_t psc_code(CgsTcgResult result, unsigned level,
                         uint8_t before)
{
    return result == CGS_TCG_RESULT_INVALID ? PSC_ERR_GENERIC : 0;
}

/*
 * Convert one entry, or the rest of one. Where 2 MiB come back at once, the host
 * can back them by one RMP entry again; all else leaves the entry split.
 */
static CgsTcgResult change_state(CPUX86State *env, hwaddr gpa, uint64_t npages,
                                 int op, uint64_t *done)
{
    bool shared = op == PSC_OP_SHARED;
    CgsTcgResult result = cgs_convert(env, gpa, npages, shared, 0, done,
                                      psc_code);

    if (result == CGS_TCG_RESULT_ALREADY) {
        return result;
    }
    if (npages == SNP_2M_PAGES && !shared && result == CGS_TCG_RESULT_OK) {
        cgs_set_bits(gpa, npages, 0, SNP_RMP_4K);
    } else if (npages == 1 && (cgs_byte(gpa ^ TARGET_PAGE_SIZE) & SNP_RMP_4K)) {
        /* the neighbour says that the entry was split before */
        cgs_set_bits(gpa, 1, SNP_RMP_4K, 0);
    } else {
        cgs_set_bits(QEMU_ALIGN_DOWN(gpa, 2 * MiB), SNP_2M_PAGES, SNP_RMP_4K,
                     0);
    }
    return result;
}

uint64_t snp_psc_msr(CPUX86State *env, uint64_t msr, uintptr_t ra)
{
    hwaddr gpa = extract64(msr, 12, 40) << 12;
    int op = extract64(msr, 52, 4);
    uint64_t done;

    if (op != PSC_OP_PRIVATE && op != PSC_OP_SHARED) {
        return PSC_MSR_ERROR | GHCB_MSR_PSC_RESP;
    }
    switch (change_state(env, gpa, 1, op, &done)) {
    case CGS_TCG_RESULT_BUSY:
        /* the answer cannot say so: the hypervisor tries again */
        cpu_loop_exit_restore(env_cpu(env), ra);
    case CGS_TCG_RESULT_INVALID:
        return PSC_MSR_ERROR | GHCB_MSR_PSC_RESP;
    default:
        return GHCB_MSR_PSC_RESP;
    }
}

/* One entry; returns false if the guest has to call again for the rest. */
static bool psc_entry(CPUX86State *env, uint8_t *entry, uint64_t *error)
{
    uint64_t e = ldq_le_p(entry);
    uint64_t cur = extract64(e, 0, 12);
    uint64_t gfn = extract64(e, 12, 40);
    int op = extract64(e, 52, 4);
    uint64_t npages = extract64(e, 56, 1) ? SNP_2M_PAGES : 1;
    uint64_t done = npages - cur;
    CgsTcgResult result = CGS_TCG_RESULT_OK;

    if (cur > npages || !QEMU_IS_ALIGNED(gfn, npages)) {
        *error = PSC_ERR_ENTRY;
        return false;
    }
    switch (op) {
    case PSC_OP_PRIVATE:
    case PSC_OP_SHARED:
        if (cur < npages) {
            result = change_state(env, (gfn + cur) << 12, npages - cur, op,
                                  &done);
        }
        break;
    default:
        /* PSMASH and UNSMASH are hints that KVM ignores */
        break;
    }
    if (result == CGS_TCG_RESULT_INVALID) {
        *error = PSC_ERR_GENERIC;
        return false;
    }
    stq_le_p(entry, deposit64(e, 0, 12, cur + done));
    return result != CGS_TCG_RESULT_PARTIAL && result != CGS_TCG_RESULT_BUSY;
}

void snp_nae_psc(CPUX86State *env, SnpGhcb *g)
{
    uint8_t *d = snp_scratch(g, PSC_HEADER);
    unsigned max = snp_guest()->psc_entries;
    unsigned cur, end, limit, n = 0;
    uint64_t error = 0;

    if (!d) {
        return;
    }
    limit = (g->page + GHCB_SHARED_BUFFER_END - d - PSC_HEADER) / 8;
    cur = lduw_le_p(d);
    end = lduw_le_p(d + 2);
    if (end >= limit) {
        ghcb_answer(g, GHCB_NO_ACTION, PSC_ERR_HEADER);
        return;
    }
    /* The hypervisor may return before the last entry; the guest calls again */
    while (cur <= end && (!max || n++ < max)) {
        if (!psc_entry(env, d + PSC_HEADER + 8 * cur, &error)) {
            break;
        }
        stw_le_p(d, ++cur);
    }
    ghcb_answer(g, GHCB_NO_ACTION, error);
}
