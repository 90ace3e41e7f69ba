/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated Intel TDX guest for TCG: TDG.MEM.PAGE.ACCEPT, MapGPA
 *
 * The secure EPT is modelled by the state of each page and by TDX_SMALL: a
 * 2 MiB region without it is, or can be, one leaf. A host that maps 2 MiB
 * (max-page-level=1) does so until something smaller is accepted or converted
 * in the region.
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "cgs/tdx.h"

#define LEVEL_MASK      7ull
#define GPA_MASK        0x000ffffffffff000ull

/* GHCI, and arch/x86/include/asm/shared/tdx.h of Linux */
#define VMCALL_SUCCESS          0ull
#define VMCALL_RETRY            1ull
#define VMCALL_INVALID_OPERAND  0x8000000000000000ull
#define VMCALL_ALIGN_ERROR      0x8000000000000002ull

void tdx_demote(hwaddr gpa)
{
    cgs_set_bits(QEMU_ALIGN_DOWN(gpa, 2 * MiB), 512, TDX_SMALL, 0);
}

static CgsTcgResult judge(const CgsTally *t, unsigned level)
{
    if (t->n[CGS_TCG_STATE_NONE] || t->n[CGS_TCG_STATE_SHARED]) {
        return CGS_TCG_RESULT_NOT_PRIVATE;
    }
    if (level == 0) {
        return t->n[CGS_TCG_STATE_PRIVATE] ? CGS_TCG_RESULT_ALREADY
                                           : CGS_TCG_RESULT_OK;
    }
    if (t->any & TDX_SMALL || cgs_guest->max_page_level == 0) {
        return CGS_TCG_RESULT_SIZE_MISMATCH;
    }
    if (!t->n[CGS_TCG_STATE_PENDING]) {
        return CGS_TCG_RESULT_ALREADY;
    }
    return t->n[CGS_TCG_STATE_PRIVATE] ? CGS_TCG_RESULT_SIZE_MISMATCH
                                       : CGS_TCG_RESULT_OK;
}

static uint64_t accept_code(CgsTcgResult r, unsigned level, uint8_t before)
{
    switch (r) {
    case CGS_TCG_RESULT_OK:
        return TDX_SUCCESS;
    case CGS_TCG_RESULT_ALREADY:
        /* the level of the leaf that was found */
        return TDX_PAGE_ALREADY_ACCEPTED | !(before & TDX_SMALL);
    case CGS_TCG_RESULT_SIZE_MISMATCH:
        /* the level at which there is no leaf */
        return TDX_PAGE_SIZE_MISMATCH | level;
    case CGS_TCG_RESULT_BUSY:
        return TDX_OPERAND_BUSY | TDX_RCX;
    default:
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
}

/*
 * Acceptance of a GPA that has no private page: a TD exit with an EPT
 * violation. KVM then makes a shared page private, and the guest's instruction
 * runs again; without memory there, the TD ends.
 */
static bool resolve_not_private(CPUX86State *env, hwaddr gpa, unsigned level)
{
    CgsAccess acc = { .gpa = gpa, .gva = gpa, .type = CGS_TCG_ACCESS_CALL };

    return cgs_make_private(env, acc, cgs_level_pages(level), NULL);
}

uint64_t tdx_page_accept(CPUX86State *env)
{
    uint64_t rcx = env->regs[R_ECX];
    CgsAccept op = {
        .gpa = rcx & GPA_MASK,
        .level = rcx & LEVEL_MASK,
        .zero = true,
        .judge = judge,
    };
    CgsTcgResult r;
    uint8_t before;

    if (op.level > 1 || rcx & ~(GPA_MASK | LEVEL_MASK) ||
        op.gpa & ((cgs_level_pages(op.level) << 12) - 1) ||
        op.gpa >> (tdx_guest()->gpaw - 1)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    op.set_bits = op.level ? 0 : TDX_SMALL;
    do {
        before = cgs_byte(op.gpa);
        r = cgs_accept(env, &op, accept_code);
        /* beyond the page array there is no memory either */
        if (r == CGS_TCG_RESULT_INVALID) {
            r = CGS_TCG_RESULT_NOT_PRIVATE;
        }
    } while (r == CGS_TCG_RESULT_NOT_PRIVATE &&
             resolve_not_private(env, op.gpa, op.level));
    if (r == CGS_TCG_RESULT_OK && op.level == 0 && !(before & TDX_SMALL)) {
        /* the host split its 2 MiB page for this */
        tdx_demote(op.gpa);
    }
    return accept_code(r, op.level, before);
}

static uint64_t map_code(CgsTcgResult r, unsigned level, uint8_t before)
{
    switch (r) {
    case CGS_TCG_RESULT_OK:
    case CGS_TCG_RESULT_ALREADY:
        return VMCALL_SUCCESS;
    case CGS_TCG_RESULT_BUSY:
    case CGS_TCG_RESULT_PARTIAL:
        return VMCALL_RETRY;
    default:
        return VMCALL_INVALID_OPERAND;
    }
}

/* GHCI 3.2 TDG.VP.VMCALL<MapGPA>, as KVM's tdx_map_gpa() checks it */
uint64_t tdx_map_gpa(CPUX86State *env)
{
    TdxTcgGuest *td = tdx_guest();
    uint64_t start = env->regs[12], size = env->regs[13], npages, done;
    bool shared = start & cgs_addr_bit;
    hwaddr gpa = start & ~cgs_addr_bit;
    CgsTcgResult r;

    if (!size || gpa + size < gpa || gpa + size > cgs_addr_bit) {
        env->regs[11] = start;
        return VMCALL_INVALID_OPERAND;
    }
    if ((gpa | size) & 4095) {
        env->regs[11] = start;
        return VMCALL_ALIGN_ERROR;
    }
    npages = size >> 12;
    if (td->mapgpa_retry_pages) {
        npages = MIN(npages, td->mapgpa_retry_pages);
    }
    r = cgs_convert(env, gpa, npages, shared, 0, &done, map_code);
    if (gpa & (2 * MiB - 1)) {
        tdx_demote(gpa);
    }
    if ((gpa + (npages << 12)) & (2 * MiB - 1)) {
        tdx_demote(gpa + (npages << 12) - 1);
    }
    if (map_code(r, 0, 0) == VMCALL_SUCCESS && done < size >> 12) {
        r = CGS_TCG_RESULT_PARTIAL;
    }
    if (map_code(r, 0, 0) != VMCALL_SUCCESS) {
        env->regs[11] = start + (done << 12);
    }
    return map_code(r, 0, 0);
}

bool tdx_check_buffer(CPUX86State *env, uint64_t gpa, bool private_only,
                      CgsTcgAccess type)
{
    CgsAccess acc = {
        .gpa = gpa & ~cgs_addr_bit,
        .gva = gpa,
        .shared = gpa & cgs_addr_bit,
        .type = type,
    };

    if (gpa >> tdx_guest()->gpaw || (acc.shared && private_only)) {
        return false;
    }
    acc.state = cgs_state(acc.gpa);
    if (!cgs_guest->check ||
        acc.state == (acc.shared ? CGS_TCG_STATE_SHARED
                                 : CGS_TCG_STATE_PRIVATE)) {
        return true;
    }
    cgs_violation(env, &acc,
                  acc.shared ? CGS_TCG_VIOLATION_KIND_SHARED_ACCESS :
                  acc.state == CGS_TCG_STATE_PENDING ?
                  CGS_TCG_VIOLATION_KIND_UNACCEPTED :
                  acc.state == CGS_TCG_STATE_SHARED ?
                  CGS_TCG_VIOLATION_KIND_PRIVATE_ACCESS :
                  CGS_TCG_VIOLATION_KIND_NO_MEMORY, NULL);
    return true;
}
