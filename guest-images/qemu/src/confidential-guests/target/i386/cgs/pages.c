/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated confidential guests for TCG: the state of each page of memory
 *
 * vCPUs change states at the same time (MTTCG). A page is changed by the vCPU
 * that managed to set CGS_BUSY in its byte; readers take the state as it was.
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/processor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-cgs-tcg.h"
#include "cgs/cgs.h"

uint8_t cgs_byte(hwaddr gpa)
{
    uint64_t pfn = gpa >> 12;

    if (unlikely(pfn >= cgs_guest->nr_pages)) {
        return CGS_TCG_STATE_NONE;
    }
    return qatomic_read(&cgs_guest->state[pfn]);
}

bool cgs_lock(hwaddr gpa, uint64_t npages, CgsTally *tally)
{
    uint64_t pfn = gpa >> 12;

    if (npages > cgs_guest->nr_pages || pfn > cgs_guest->nr_pages - npages) {
        return false;
    }
    *tally = (CgsTally){ .all = CGS_PLATFORM };
    for (uint64_t i = 0; i < npages; i++) {
        uint8_t old = qatomic_read(&cgs_guest->state[pfn + i]), seen;

        for (;;) {
            if (old & CGS_BUSY) {
                cgs_unlock(gpa, i);
                return false;
            }
            seen = qatomic_cmpxchg(&cgs_guest->state[pfn + i], old,
                                   old | CGS_BUSY);
            if (seen == old) {
                break;
            }
            old = seen;
        }
        if (i == 0) {
            tally->first = old;
        }
        tally->n[old & CGS_STATE_MASK]++;
        tally->any |= old & CGS_PLATFORM;
        tally->all &= old;
    }
    return true;
}

void cgs_unlock(hwaddr gpa, uint64_t npages)
{
    for (uint64_t i = 0; i < npages; i++) {
        qatomic_and(&cgs_guest->state[(gpa >> 12) + i], (uint8_t)~CGS_BUSY);
    }
}

void cgs_commit(hwaddr gpa, CgsTcgState state, uint8_t bits)
{
    uint8_t *byte = &cgs_guest->state[gpa >> 12];

    qatomic_store_release(byte, (*byte & CGS_DIRTY) | state | bits);
}

void cgs_set_bits(hwaddr gpa, uint64_t npages, uint8_t set, uint8_t clear)
{
    uint64_t pfn = gpa >> 12;

    for (; npages && pfn < cgs_guest->nr_pages; pfn++, npages--) {
        uint8_t *byte = &cgs_guest->state[pfn];
        uint8_t old = qatomic_read(byte), seen;

        /* who has the page locked will write all of its byte */
        for (;;) {
            while (old & CGS_BUSY) {
                cpu_relax();
                old = qatomic_read(byte);
            }
            seen = qatomic_cmpxchg(byte, old, (old | set) & ~clear);
            if (seen == old) {
                break;
            }
            old = seen;
        }
    }
}

void cgs_count_pages(uint64_t n[4])
{
    memset(n, 0, 4 * sizeof(n[0]));
    for (uint64_t p = 0; p < cgs_guest->nr_pages; p++) {
        n[qatomic_read(&cgs_guest->state[p]) & CGS_STATE_MASK]++;
    }
}

CgsTcgRangeList *qmp_query_cgs_tcg_pages(bool has_state, CgsTcgState state,
                                         bool has_start, uint64_t start,
                                         bool has_max, uint32_t max,
                                         Error **errp)
{
    const uint8_t mask = CGS_STATE_MASK | CGS_PLATFORM;
    CgsTcgRangeList *list = NULL, **tail = &list;
    uint64_t p, q;

    if (!cgs_guest || !cgs_guest->state) {
        error_setg(errp, "there is no emulated confidential guest");
        return NULL;
    }
    if (!has_max) {
        max = 65536;
    }
    for (p = has_start ? start >> 12 : 0; p < cgs_guest->nr_pages && max; p = q) {
        uint8_t byte = cgs_guest->state[p] & mask;
        CgsTcgState st = byte & CGS_STATE_MASK;

        for (q = p + 1; q < cgs_guest->nr_pages &&
                        (cgs_guest->state[q] & mask) == byte; q++) {
        }
        if (has_state ? st == state : st != CGS_TCG_STATE_NONE) {
            CgsTcgRange *r = g_new0(CgsTcgRange, 1);

            r->gpa = p << 12;
            r->npages = q - p;
            r->state = st;
            r->bits = byte >> 4;
            QAPI_LIST_APPEND(tail, r);
            max--;
        }
    }
    return list;
}
