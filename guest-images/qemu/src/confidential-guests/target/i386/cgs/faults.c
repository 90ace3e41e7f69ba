/*
 * Emulated confidential guests for TCG: defects shown on purpose
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-cgs-tcg.h"
#include "cgs/cgs.h"
#include "cgs/internal.h"

/* Per element of the list: calls that matched so far. */
static GArray *matched;

void cgs_faults_set(CgsTcgGuest *g, CgsTcgFaultList *list)
{
    QEMU_LOCK_GUARD(&g->lock);
    qapi_free_CgsTcgFaultList(g->faults);
    g->faults = QAPI_CLONE(CgsTcgFaultList, list);
    if (matched) {
        g_array_free(matched, true);
    }
    matched = g_array_new(false, true, sizeof(uint64_t));
    for (list = g->faults; list; list = list->next) {
        uint64_t zero = 0;

        list->value->has_fired = true;
        list->value->fired = 0;
        g_array_append_val(matched, zero);
    }
}

CgsTcgFaultList *cgs_faults_get(CgsTcgGuest *g)
{
    QEMU_LOCK_GUARD(&g->lock);
    return QAPI_CLONE(CgsTcgFaultList, g->faults);
}

/* The fault that this call is to show, if any; counted. Lock held. */
static CgsTcgFault *take(CgsTcgFaultKind kind, hwaddr gpa, uint64_t npages)
{
    CgsTcgFaultList *l;
    unsigned i = 0;

    for (l = cgs_guest->faults; l; l = l->next, i++) {
        CgsTcgFault *f = l->value;
        uint64_t first = f->has_nth ? f->nth : 1;
        uint64_t count = f->has_count ? f->count : 1;
        uint64_t n;

        if (f->kind != kind ||
            (f->has_gpa && (f->gpa < gpa ||
                            (f->gpa - gpa) >> 12 >= npages))) {
            continue;
        }
        n = ++g_array_index(matched, uint64_t, i);
        if (n >= first && (!count || n - first < count)) {
            f->fired++;
            return f;
        }
    }
    return NULL;
}

hwaddr cgs_fault_page(CPUX86State *env, CgsTcgFaultKind kind, hwaddr gpa,
                      uint64_t npages)
{
    CgsEvent ev = { .kind = CGS_EV_FAULT, .level = kind, .npages = 1 };

    if (likely(!cgs_guest->faults)) {
        return -1;
    }
    WITH_QEMU_LOCK_GUARD(&cgs_guest->lock) {
        CgsTcgFault *f = take(kind, gpa, npages);

        if (!f) {
            return -1;
        }
        ev.gpa = f->has_gpa ? f->gpa & TARGET_PAGE_MASK : gpa;
    }
    cgs_event(env, &ev);
    return ev.gpa;
}

bool cgs_fault(CPUX86State *env, CgsTcgFaultKind kind, hwaddr gpa,
               uint64_t npages)
{
    return cgs_fault_page(env, kind, gpa, npages) != -1;
}
