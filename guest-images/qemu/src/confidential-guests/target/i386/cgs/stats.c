/*
 * Emulated confidential guests for TCG: statistics for the monitor
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-commands-cgs-tcg.h"
#include "qapi/qapi-visit-cgs-tcg.h"
#include "cgs/cgs.h"
#include "cgs/internal.h"

#define CALLS_MAX 512           /* a guest makes up numbers as it likes */

static void count(const char *interface, uint64_t number, bool refused)
{
    CgsTcgGuest *g = cgs_guest;
    CgsCall new = { .interface = interface, .number = number, .calls = 1,
                    .refused = refused };

    QEMU_LOCK_GUARD(&g->lock);
    for (unsigned i = 0; i < g->calls->len; i++) {
        CgsCall *c = &g_array_index(g->calls, CgsCall, i);

        if (c->number == number && !strcmp(c->interface, interface)) {
            c->calls += !refused;
            c->refused += refused;
            return;
        }
    }
    if (g->calls->len < CALLS_MAX) {
        g_array_append_val(g->calls, new);
    }
}

void cgs_count_call(const char *interface, uint64_t number)
{
    count(interface, number, false);
}

void cgs_unknown_call(CPUX86State *env, const char *interface, uint64_t number)
{
    CgsEvent ev = { .kind = CGS_EV_UNKNOWN_CALL, .aux = number,
                    .result = CGS_TCG_RESULT_REFUSED };

    count(interface, number, true);
    cgs_event(env, &ev);
}

static CgsTcgPages *pages(const uint64_t n[4])
{
    CgsTcgPages *p = g_new0(CgsTcgPages, 1);

    p->pending = n[CGS_TCG_STATE_PENDING];
    p->q_private = n[CGS_TCG_STATE_PRIVATE];
    p->shared = n[CGS_TCG_STATE_SHARED];
    return p;
}

static CgsTcgResultCountList *results(const uint64_t n[CGS_TCG_RESULT__MAX])
{
    CgsTcgResultCountList *list = NULL, **tail = &list;

    for (int i = 0; i < CGS_TCG_RESULT__MAX; i++) {
        if (n[i]) {
            CgsTcgResultCount *r = g_new0(CgsTcgResultCount, 1);

            r->result = i;
            r->calls = n[i];
            QAPI_LIST_APPEND(tail, r);
        }
    }
    return list;
}

static CgsTcgLevelList *levels(const CgsStats *s)
{
    CgsTcgLevelList *list = NULL, **tail = &list;

    for (int i = 0; i < CGS_LEVELS; i++) {
        CgsTcgLevel *l = g_new0(CgsTcgLevel, 1);

        l->level = i;
        l->results = results(s->accepts[i]);
        QAPI_LIST_APPEND(tail, l);
    }
    return list;
}

static CgsTcgFlow *flow(const CgsStats *s)
{
    CgsTcgFlow *f = g_new0(CgsTcgFlow, 1);

    f->accepted = s->accepted;
    f->private_to_pending = s->private_to_pending;
    f->pending_to_shared = s->pending_to_shared;
    f->private_to_shared = s->private_to_shared;
    f->shared_to_pending = s->shared_to_pending;
    f->implicit = s->implicit;
    f->plugged = s->plugged;
    f->unplugged = s->unplugged;
    return f;
}

static CgsTcgViolationCountList *violations(const CgsStats *s)
{
    CgsTcgViolationCountList *list = NULL, **tail = &list;

    for (int i = 0; i < CGS_TCG_VIOLATION_KIND__MAX; i++) {
        if (s->violations[i]) {
            CgsTcgViolationCount *v = g_new0(CgsTcgViolationCount, 1);

            v->kind = i;
            v->count = s->violations[i];
            QAPI_LIST_APPEND(tail, v);
        }
    }
    return list;
}

static CgsTcgCallCountList *calls(const GArray *array)
{
    CgsTcgCallCountList *list = NULL, **tail = &list;

    for (unsigned i = 0; i < array->len; i++) {
        CgsCall *c = &g_array_index(array, CgsCall, i);
        CgsTcgCallCount *v = g_new0(CgsTcgCallCount, 1);

        v->interface = g_strdup(c->interface);
        v->number = c->number;
        v->calls = c->calls;
        v->refused = c->refused;
        QAPI_LIST_APPEND(tail, v);
    }
    return list;
}

CgsTcgInfo *qmp_query_cgs_tcg(Error **errp)
{
    CgsTcgGuest *g = cgs_guest;
    CgsTcgInfo *info;
    uint64_t now[4];

    if (!g || !g->state) {
        error_setg(errp, "there is no emulated confidential guest");
        return NULL;
    }
    cgs_count_pages(now);
    info = g_new0(CgsTcgInfo, 1);
    info->platform = g_strdup(cgs_class()->platform);
    info->on_violation = g->on_violation;
    info->check = g->check;
    info->intercepts = g->intercepts;
    info->pages = pages(now);
    info->faults = cgs_faults_get(g);
    info->events = cgs_events_flush(g);
    QEMU_LOCK_GUARD(&g->lock);
    info->launches = g->stats.launches;
    info->at_launch = pages(g->stats.launch_pages);
    info->flow = flow(&g->stats);
    info->accepts = levels(&g->stats);
    info->conversions = results(g->stats.conversions);
    info->violations = violations(&g->stats);
    info->calls = calls(g->calls);
    if (g->last_violation) {
        info->last_violation = QAPI_CLONE(CgsTcgViolation, g->last_violation);
    }
    if (g->fatal) {
        info->fatal = QAPI_CLONE(CgsTcgFatal, g->fatal);
    }
    return info;
}
