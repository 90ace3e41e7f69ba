/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated confidential guests for TCG: the check of every translation
 *
 * QEMU fills its TLB by 4 KiB even where the guest maps more, so that the
 * check of a page happens once and a TLB hit costs nothing. A pending page
 * is never in a TLB: acceptance needs no flush, conversions do.
 */
#include "qemu/osdep.h"
#include "exec/page-protection.h"
#include "cgs/cgs.h"

static CgsTcgViolationKind kind_of(const CgsAccess *acc)
{
    if (acc->shared) {
        return CGS_TCG_VIOLATION_KIND_SHARED_ACCESS;
    }
    switch (acc->state) {
    case CGS_TCG_STATE_PENDING:
        return CGS_TCG_VIOLATION_KIND_UNACCEPTED;
    case CGS_TCG_STATE_SHARED:
        return CGS_TCG_VIOLATION_KIND_PRIVATE_ACCESS;
    default:
        return CGS_TCG_VIOLATION_KIND_NO_MEMORY;
    }
}

/* True if the access may happen. With probe nothing happens if it may not. */
static bool check(CPUX86State *env, CgsAccess *acc, bool probe)
{
    CgsTcgClass *cls = cgs_class();
    CgsTcgViolationKind kind;
    uint8_t byte = cgs_byte(acc->gpa);

    acc->state = byte & CGS_STATE_MASK;
    if (likely(acc->state == (acc->shared ? CGS_TCG_STATE_SHARED
                                          : CGS_TCG_STATE_PRIVATE))) {
        if (!cls->forbid || !cls->forbid(env, acc, byte, &kind)) {
            return true;
        }
        return !probe && cgs_violation(env, acc, kind, NULL);
    }
    if (acc->state == CGS_TCG_STATE_NONE && acc->shared) {
        if (unlikely(cgs_guest->intercepts && cls->mmio)) {
            if (probe) {
                return false;
            }
            cls->mmio(env, acc);
        }
        return true;
    }
    if (probe) {
        return false;
    }
    if (cls->tolerate && cls->tolerate(env, acc)) {
        return true;
    }
    return cgs_violation(env, acc, kind_of(acc), NULL);
}

/* Would a write to a page that may be read be refused? */
static bool forbids_write(CPUX86State *env, CgsAccess acc)
{
    CgsTcgClass *cls = cgs_class();
    CgsTcgViolationKind kind;

    acc.type = CGS_TCG_ACCESS_WRITE;
    return cls->forbid && cls->forbid(env, &acc, cgs_byte(acc.gpa), &kind);
}

bool cgs_tlb_fill(CPUX86State *env, hwaddr *paddr, int *prot, vaddr addr,
                  MMUAccessType access_type, int mmu_idx, bool probe,
                  uintptr_t ra)
{
    static const CgsTcgAccess types[] = {
        [MMU_DATA_LOAD] = CGS_TCG_ACCESS_READ,
        [MMU_DATA_STORE] = CGS_TCG_ACCESS_WRITE,
        [MMU_INST_FETCH] = CGS_TCG_ACCESS_FETCH,
    };
    bool bit = *paddr & cgs_addr_bit;
    CgsAccess acc = {
        .gpa = *paddr & ~cgs_addr_bit,
        .gva = addr,
        .shared = bit == cgs_guest->bit_is_shared,
        .type = types[access_type],
        .ra = ra,
    };

    *paddr = acc.gpa;
    if (mmu_idx == MMU_PHYS_IDX) {
        return true;            /* a page walk: cgs_walk() looked at it */
    }
    if (!(env->cr[0] & CR0_PG_MASK)) {
        acc.shared = false;
    }
    if (acc.shared) {
        /*
         * A shared page is mapped for data or for execution, so that a fetch
         * is seen even if there was a data access before.
         */
        if (access_type != MMU_INST_FETCH) {
            *prot &= ~PAGE_EXEC;
        } else if (cgs_class()->code_is_private) {
            *prot &= PAGE_EXEC;
            acc.shared = false;
        } else if (cgs_guest->check) {
            acc.state = cgs_state(acc.gpa);
            return !probe &&
                   cgs_violation(env, &acc, CGS_TCG_VIOLATION_KIND_SHARED_CODE,
                                 NULL);
        }
    }
    if (unlikely(!cgs_guest->check)) {
        return true;
    }
    if (!check(env, &acc, probe)) {
        return false;
    }
    if (access_type != MMU_DATA_STORE && forbids_write(env, acc)) {
        *prot &= ~PAGE_WRITE;
    }
    return true;
}

hwaddr cgs_walk(CPUX86State *env, hwaddr addr, uintptr_t ra)
{
    bool bit = addr & cgs_addr_bit;
    CgsAccess acc = {
        .gpa = addr & ~cgs_addr_bit,
        .gva = addr,
        .type = CGS_TCG_ACCESS_WALK,
        .ra = ra,
    };

    if (!cgs_guest->check) {
        return acc.gpa;
    }
    if (bit == cgs_guest->bit_is_shared && !cgs_class()->code_is_private) {
        acc.shared = true;
        acc.state = cgs_state(acc.gpa);
        cgs_violation(env, &acc, CGS_TCG_VIOLATION_KIND_SHARED_CODE, NULL);
    } else {
        check(env, &acc, false);
    }
    return acc.gpa;
}
