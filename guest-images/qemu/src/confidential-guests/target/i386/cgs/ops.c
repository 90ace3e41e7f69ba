/*
 * Emulated confidential guests for TCG: acceptance and conversion
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "exec/cputlb.h"
#include "cgs/cgs.h"

static bool in_range(hwaddr gpa, uint64_t npages)
{
    uint64_t n = cgs_guest->nr_pages;

    return !(gpa & 4095) && npages <= n && gpa >> 12 <= n - npages;
}

static CgsTcgResult judge_accept(const CgsTally *t, unsigned level)
{
    if (t->n[CGS_TCG_STATE_NONE] || t->n[CGS_TCG_STATE_SHARED]) {
        return CGS_TCG_RESULT_NOT_PRIVATE;
    }
    if (!t->n[CGS_TCG_STATE_PENDING]) {
        return CGS_TCG_RESULT_ALREADY;
    }
    if (t->n[CGS_TCG_STATE_PRIVATE] || level > cgs_guest->max_page_level) {
        return CGS_TCG_RESULT_SIZE_MISMATCH;
    }
    return CGS_TCG_RESULT_OK;
}

static void accept_locked(CPUX86State *env, const CgsAccept *op,
                          uint64_t npages, CgsEvent *ev)
{
    hwaddr spare = cgs_fault_page(env, CGS_TCG_FAULT_KIND_ACCEPT_LIE, op->gpa,
                                  npages);

    if (op->zero) {
        cgs_zero(op->gpa, npages);
    }
    for (uint64_t i = 0; i < npages; i++) {
        hwaddr gpa = op->gpa + (i << 12);

        if (gpa == spare) {
            ev->flags |= CGS_EVF_FAULT;
            cgs_unlock(gpa, 1);
            continue;
        }
        /* its owner may write to it from now on */
        cgs_guest->state[gpa >> 12] |= CGS_DIRTY;
        cgs_commit(gpa, CGS_TCG_STATE_PRIVATE, op->set_bits);
        ev->aux++;
    }
}

CgsTcgResult cgs_accept(CPUX86State *env, const CgsAccept *op, CgsCode *code)
{
    CgsTcgGuest *g = cgs_guest;
    uint64_t npages = cgs_level_pages(op->level);
    CgsEvent ev = { .kind = CGS_EV_ACCEPT, .gpa = op->gpa, .npages = npages,
                    .level = op->level };
    CgsTcgResult r;
    CgsTally tally = { };

    if (!in_range(op->gpa, npages)) {
        r = CGS_TCG_RESULT_INVALID;
    } else if (cgs_fault(env, CGS_TCG_FAULT_KIND_BUSY, op->gpa, npages)) {
        r = CGS_TCG_RESULT_BUSY;
        ev.flags |= CGS_EVF_FAULT;
    } else if (cgs_fault(env, CGS_TCG_FAULT_KIND_ACCEPT_REFUSE, op->gpa,
                         npages)) {
        r = CGS_TCG_RESULT_REFUSED;
        ev.flags |= CGS_EVF_FAULT;
    } else if (op->level &&
               cgs_fault(env, CGS_TCG_FAULT_KIND_SIZE_MISMATCH, op->gpa,
                         npages)) {
        r = CGS_TCG_RESULT_SIZE_MISMATCH;
        ev.flags |= CGS_EVF_FAULT;
    } else if (!cgs_lock(op->gpa, npages, &tally)) {
        r = CGS_TCG_RESULT_BUSY;
    } else {
        r = (op->judge ?: judge_accept)(&tally, op->level);
        ev.before = tally.first;
        if (r == CGS_TCG_RESULT_OK) {
            accept_locked(env, op, npages, &ev);
        } else {
            cgs_unlock(op->gpa, npages);
        }
    }

    ev.after = cgs_byte(op->gpa);
    if (r == CGS_TCG_RESULT_OK &&
        cgs_fault(env, CGS_TCG_FAULT_KIND_ACCEPT_TWICE, op->gpa, npages)) {
        r = CGS_TCG_RESULT_ALREADY;
        ev.flags |= CGS_EVF_FAULT;
    }
    WITH_QEMU_LOCK_GUARD(&g->lock) {
        if (op->level < CGS_LEVELS) {
            g->stats.accepts[op->level][r]++;
        }
        g->stats.accepted += ev.aux;
    }
    ev.result = r;
    ev.code = code(r, op->level, ev.before);
    cgs_event(env, &ev);
    if (ev.aux) {
        cgs_spend(env, g->accept_ns[op->level]);
        if (cgs_fault(env, CGS_TCG_FAULT_KIND_DMA_PRIVATE, op->gpa, npages)) {
            cgs_dma_write(op->gpa, "(device)", 8);
        }
    }
    return r;
}

static CgsTcgResult judge_rescind(const CgsTally *t, unsigned level)
{
    if (t->n[CGS_TCG_STATE_NONE] || t->n[CGS_TCG_STATE_SHARED]) {
        return CGS_TCG_RESULT_NOT_PRIVATE;
    }
    return t->n[CGS_TCG_STATE_PRIVATE] ? CGS_TCG_RESULT_OK
                                       : CGS_TCG_RESULT_ALREADY;
}

CgsTcgResult cgs_rescind(CPUX86State *env, const CgsAccept *op, CgsCode *code)
{
    CgsTcgGuest *g = cgs_guest;
    hwaddr gpa = op->gpa;
    uint64_t npages = cgs_level_pages(op->level);
    CgsEvent ev = { .kind = CGS_EV_RESCIND, .gpa = gpa, .npages = npages,
                    .level = op->level };
    CgsTally tally = { };
    CgsTcgResult r = CGS_TCG_RESULT_OK;

    if (!in_range(gpa, npages)) {
        r = CGS_TCG_RESULT_INVALID;
    } else if (cgs_fault(env, CGS_TCG_FAULT_KIND_BUSY, gpa, npages)) {
        r = CGS_TCG_RESULT_BUSY;
        ev.flags |= CGS_EVF_FAULT;
    } else if (!cgs_lock(gpa, npages, &tally)) {
        r = CGS_TCG_RESULT_BUSY;
    } else {
        ev.before = tally.first;
        r = (op->judge ?: judge_rescind)(&tally, op->level);
        if (r != CGS_TCG_RESULT_OK) {
            cgs_unlock(gpa, npages);
        } else {
            for (uint64_t i = 0; i < npages; i++) {
                cgs_commit(gpa + (i << 12), CGS_TCG_STATE_PENDING,
                           op->set_bits);
            }
            ev.aux = tally.n[CGS_TCG_STATE_PRIVATE];
            cgs_flush_all_tlbs(env);
        }
    }
    WITH_QEMU_LOCK_GUARD(&g->lock) {
        g->stats.private_to_pending += ev.aux;
    }
    ev.after = cgs_byte(gpa);
    ev.result = r;
    ev.code = code(r, op->level, ev.before);
    cgs_event(env, &ev);
    return r;
}

/* Convert one locked page; true if it may have been in a TLB. */
static bool convert_page(hwaddr gpa, bool to_shared, CgsStats *delta)
{
    CgsTcgState old = cgs_state(gpa);

    if (to_shared && old == CGS_TCG_STATE_PRIVATE) {
        delta->private_to_shared++;
    } else if (to_shared && old == CGS_TCG_STATE_PENDING) {
        delta->pending_to_shared++;
    } else if (!to_shared && old == CGS_TCG_STATE_SHARED) {
        delta->shared_to_pending++;
    } else {
        cgs_unlock(gpa, 1);
        return false;
    }
    if (!cgs_guest->keep_contents && old != CGS_TCG_STATE_PENDING) {
        cgs_poison(gpa, 1);
    }
    /* whoever it belongs to now may write to it */
    qatomic_or(&cgs_guest->state[gpa >> 12], CGS_DIRTY);
    cgs_commit(gpa, to_shared ? CGS_TCG_STATE_SHARED : CGS_TCG_STATE_PENDING,
               0);
    return old != CGS_TCG_STATE_PENDING;
}

CgsTcgResult cgs_convert(CPUX86State *env, hwaddr gpa, uint64_t npages,
                         bool to_shared, uint8_t event_flags, uint64_t *done,
                         CgsCode *code)
{
    CgsTcgGuest *g = cgs_guest;
    CgsEvent ev = { .kind = to_shared ? CGS_EV_TO_SHARED : CGS_EV_TO_PENDING,
                    .gpa = gpa, .flags = event_flags, .before = cgs_byte(gpa) };
    CgsTcgResult r = CGS_TCG_RESULT_OK;
    CgsStats delta = { };
    uint64_t limit = npages, changed;
    bool flush = false;

    *done = 0;
    if (cgs_fault(env, CGS_TCG_FAULT_KIND_CONVERT_FORGET, gpa, npages)) {
        ev.flags |= CGS_EVF_FAULT;
        *done = npages;
        limit = 0;
    } else if (npages > 1 &&
               cgs_fault(env, CGS_TCG_FAULT_KIND_CONVERT_PARTIAL, gpa,
                         npages)) {
        ev.flags |= CGS_EVF_FAULT;
        limit = npages / 2;
        r = CGS_TCG_RESULT_PARTIAL;
    } else if (cgs_fault(env, CGS_TCG_FAULT_KIND_BUSY, gpa, npages)) {
        ev.flags |= CGS_EVF_FAULT;
        limit = 0;
        r = CGS_TCG_RESULT_BUSY;
    }
    while (*done < limit) {
        hwaddr page = gpa + (*done << 12);
        CgsTally tally;

        /* beyond the page array there is no memory */
        if (in_range(page, 1)) {
            if (!cgs_lock(page, 1, &tally)) {
                r = CGS_TCG_RESULT_BUSY;
                break;
            }
            flush |= convert_page(page, to_shared, &delta);
        }
        ++*done;
    }
    if (flush) {
        cgs_flush_all_tlbs(env);
    }
    changed = delta.private_to_shared + delta.pending_to_shared +
              delta.shared_to_pending;
    if (!changed && r == CGS_TCG_RESULT_OK && !(ev.flags & CGS_EVF_FAULT)) {
        r = CGS_TCG_RESULT_ALREADY;
    }
    WITH_QEMU_LOCK_GUARD(&g->lock) {
        g->stats.private_to_shared += delta.private_to_shared;
        g->stats.pending_to_shared += delta.pending_to_shared;
        g->stats.shared_to_pending += delta.shared_to_pending;
        g->stats.implicit += event_flags & CGS_EVF_IMPLICIT ? changed : 0;
        g->stats.conversions[r]++;
    }
    ev.npages = npages;
    ev.after = cgs_byte(gpa);
    ev.result = r;
    ev.code = code ? code(r, 0, ev.before) : 0;
    ev.aux = changed | (uint64_t)delta.pending_to_shared << 32;
    cgs_event(env, &ev);
    if (changed) {
        cgs_spend(env, g->convert_ns + changed * g->convert_ns_4k);
    }
    return r;
}

bool cgs_make_private(CPUX86State *env, CgsAccess acc, uint64_t npages,
                      const char *detail)
{
    const hwaddr gpa = acc.gpa;
    uint64_t done;

    acc.state = CGS_TCG_STATE_PRIVATE;
    for (uint64_t i = 0; i < npages; i++) {
        CgsTcgState state = cgs_state(gpa + (i << 12));

        if (state == CGS_TCG_STATE_NONE ||
            (state == CGS_TCG_STATE_SHARED && acc.state != state)) {
            acc.gpa = gpa + (i << 12);
            acc.state = state;
        }
        if (state == CGS_TCG_STATE_NONE) {
            break;
        }
    }
    if (acc.state == CGS_TCG_STATE_PRIVATE) {
        return true;            /* another vCPU has done it meanwhile */
    }
    cgs_violation(env, &acc, CGS_TCG_VIOLATION_KIND_BAD_ACCEPT, detail);
    if (acc.state == CGS_TCG_STATE_NONE) {
        return false;
    }
    cgs_convert(env, gpa, npages, false, CGS_EVF_IMPLICIT, &done, NULL);
    return true;
}

void cgs_flush_all_tlbs(CPUX86State *env)
{
    CPUState *cs;

    if (env && env_cpu(env) == current_cpu) {
        tlb_flush_all_cpus_synced(env_cpu(env));
    } else {
        CPU_FOREACH(cs) {
            tlb_flush(cs);
        }
    }
}
