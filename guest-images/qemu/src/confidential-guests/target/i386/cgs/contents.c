/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated confidential guests for TCG: what is in a page
 *
 * Hardware zeroes (TDX) or garbles (SNP, key changed) the contents of a page
 * whose state changes. Pages that were never written to are not touched, so
 * that a guest larger than its host stays possible.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "exec/address-spaces.h"
#include "system/runstate.h"
#include "cgs/cgs.h"

static void set_dirty(hwaddr gpa, bool dirty)
{
    uint8_t *byte = &cgs_guest->state[gpa >> 12];

    if (dirty) {
        qatomic_or(byte, CGS_DIRTY);
    } else {
        qatomic_and(byte, (uint8_t)~CGS_DIRTY);
    }
}

void cgs_zero(hwaddr gpa, uint64_t npages)
{
    for (; npages; npages--, gpa += 4096) {
        if (cgs_byte(gpa) & CGS_DIRTY) {
            address_space_set(&address_space_memory, gpa, 0, 4096,
                              MEMTXATTRS_UNSPECIFIED);
            set_dirty(gpa, false);
        }
    }
}

void cgs_poison(hwaddr gpa, uint64_t npages)
{
    uint64_t page[512];

    for (int i = 0; i < ARRAY_SIZE(page); i++) {
        page[i] = cpu_to_le64(CGS_POISON);
    }
    for (; npages; npages--, gpa += 4096) {
        address_space_write(&address_space_memory, gpa, MEMTXATTRS_UNSPECIFIED,
                            page, sizeof(page));
        set_dirty(gpa, true);
    }
}

void cgs_launch_write(hwaddr gpa, const void *buf, uint64_t size)
{
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        return;
    }
    if (buf) {
        address_space_write(&address_space_memory, gpa, MEMTXATTRS_UNSPECIFIED,
                            buf, size);
    } else {
        address_space_set(&address_space_memory, gpa, 0, size,
                          MEMTXATTRS_UNSPECIFIED);
    }
}

/* A debugger looks at this page: nobody has what a pending page will hold. */
void cgs_debug_access(hwaddr gpa)
{
    uint8_t byte;

    if (!cgs_guest || !cgs_guest->state || cgs_guest->keep_contents) {
        return;
    }
    byte = cgs_byte(gpa);
    if ((byte & CGS_STATE_MASK) == CGS_TCG_STATE_PENDING &&
        !(byte & CGS_DIRTY)) {
        cgs_poison(gpa & TARGET_PAGE_MASK, 1);
    }
}
