/*
 * Emulated confidential guests for TCG: what follows a forbidden access
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-events-cgs-tcg.h"
#include "qapi/qapi-visit-cgs-tcg.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "exec/cpu-common.h"
#include "exec/exec-all.h"
#include "exec/translation-block.h"
#include "tcg/insn-start-words.h"
#include "cgs/cgs.h"

#define STACK_WORDS     256
#define CODE_BYTES      16
#define REPORTED_MAX    64

uint64_t cgs_rip(CPUX86State *env, uintptr_t ra)
{
    uint64_t data[TARGET_INSN_START_WORDS];
    CPUState *cs = env_cpu(env);

    if (!ra || !cpu_unwind_state_data(cs, ra, data)) {
        return env->eip;
    }
    if (tcg_cflags_has(cs, CF_PCREL)) {
        /* as x86_restore_state_to_opc(): only the offset in the page is known */
        return (env->eip & TARGET_PAGE_MASK) | data[0];
    }
    return data[0] - env->segs[R_CS].base;
}

static uint64List *read_stack(CPUX86State *env)
{
    uint64List *list = NULL, **tail = &list;
    uint64_t rsp = env->regs[R_ESP], word;

    for (int i = 0; i < STACK_WORDS; i++) {
        if (cpu_memory_rw_debug(env_cpu(env), rsp + 8 * i, &word, sizeof(word),
                                false)) {
            break;
        }
        QAPI_LIST_APPEND(tail, le64_to_cpu(word));
    }
    return list;
}

static char *read_code(CPUX86State *env, uint64_t rip)
{
    g_autoptr(GString) s = g_string_new(NULL);
    uint8_t byte;

    for (int i = 0; i < CODE_BYTES; i++) {
        if (cpu_memory_rw_debug(env_cpu(env), env->segs[R_CS].base + rip + i,
                                &byte, 1, false)) {
            break;
        }
        g_string_append_printf(s, "%02x", byte);
    }
    return g_strdup(s->str);
}

static const char *default_detail(CgsTcgViolationKind kind)
{
    static const char *const text[CGS_TCG_VIOLATION_KIND__MAX] = {
        [CGS_TCG_VIOLATION_KIND_UNACCEPTED] =
            "private access to a page that was not accepted",
        [CGS_TCG_VIOLATION_KIND_SHARED_ACCESS] =
            "shared access to a private page",
        [CGS_TCG_VIOLATION_KIND_PRIVATE_ACCESS] =
            "private access to a shared page",
        [CGS_TCG_VIOLATION_KIND_NO_MEMORY] =
            "private access to an address without memory",
        [CGS_TCG_VIOLATION_KIND_SHARED_CODE] =
            "code or a page table in shared memory",
        [CGS_TCG_VIOLATION_KIND_BAD_ACCEPT] =
            "acceptance of a page that is not private",
        [CGS_TCG_VIOLATION_KIND_PROTECTED] =
            "access to a page that the platform uses",
        [CGS_TCG_VIOLATION_KIND_DMA] =
            "device access to a page that is not shared",
        [CGS_TCG_VIOLATION_KIND_SHARED_BUFFER] =
            "a buffer for the host that is not shared",
    };

    return text[kind];
}

static CgsTcgViolation *describe(CPUX86State *env, const CgsAccess *acc,
                                 CgsTcgViolationKind kind, const char *detail)
{
    CgsTcgViolation *v = g_new0(CgsTcgViolation, 1);

    v->kind = kind;
    v->access = acc->type;
    v->gpa = acc->gpa;
    v->state = acc->state;
    v->detail = g_strdup(detail ?: default_detail(kind));
    if (env) {
        v->has_gva = true;
        v->gva = acc->gva;
        v->has_vcpu = true;
        v->vcpu = env_cpu(env)->cpu_index;
        v->has_rip = true;
        v->rip = cgs_rip(env, acc->ra);
        v->has_cpl = true;
        v->cpl = env->hflags & HF_CPL_MASK;
        v->has_cr3 = true;
        v->cr3 = env->cr[3];
        v->has_rsp = true;
        v->rsp = env->regs[R_ESP];
        v->has_rbp = true;
        v->rbp = env->regs[R_EBP];
        v->has_stack = true;
        v->stack = read_stack(env);
        v->code = read_code(env, v->rip);
    }
    return v;
}

/* Count, record, and tell the monitor; takes the violation over. */
static void publish(CPUX86State *env, CgsTcgViolation *v)
{
    CgsTcgGuest *g = cgs_guest;
    CgsEvent ev = { .kind = CGS_EV_VIOLATION, .gpa = v->gpa, .npages = 1,
                    .level = v->kind, .before = v->state, .after = v->state,
                    .rip = v->rip, .result = v->action, .code = v->access,
                    .aux = v->gva };
    bool tell;

    WITH_QEMU_LOCK_GUARD(&g->lock) {
        g->stats.violations[v->kind]++;
        tell = v->action == CGS_TCG_POLICY_STOP ||
               g->reported++ < REPORTED_MAX;
        qapi_free_CgsTcgViolation(g->last_violation);
        g->last_violation = v;
        v = QAPI_CLONE(CgsTcgViolation, v);
    }
    cgs_event(env, &ev);
    if (tell) {
        BQL_LOCK_GUARD();
        qapi_event_send_cgs_tcg_violation(v->kind, v->access, v->gpa,
            v->has_gva, v->gva, v->state, v->action, v->detail, v->has_vcpu,
            v->vcpu, v->has_rip, v->rip, v->has_cpl, v->cpl, v->has_cr3, v->cr3,
            v->has_rsp, v->rsp, v->has_rbp, v->rbp, v->has_stack, v->stack,
            v->code);
        error_report("%s: %s: %s of GPA 0x%" PRIx64 " (%s), GVA 0x%" PRIx64
                     ", RIP 0x%" PRIx64 ", CPL %" PRId64 ", vCPU %" PRId64
                     ": %s", cgs_class()->platform, v->detail,
                     CgsTcgAccess_str(v->access), v->gpa,
                     CgsTcgState_str(v->state), v->gva, v->rip, v->cpl,
                     v->has_vcpu ? v->vcpu : -1, CgsTcgPolicy_str(v->action));
    }
    qapi_free_CgsTcgViolation(v);
}

/* Leave the vCPU before the instruction; nothing runs until "cont". */
static G_NORETURN void stop_vcpu(CPUX86State *env, RunState state)
{
    CPUState *cs = env_cpu(env);

    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(state);
    cpu_stop_current();
    cs->exception_index = EXCP_INTERRUPT;
    cpu_loop_exit(cs);
}

bool cgs_violation(CPUX86State *env, const CgsAccess *acc,
                   CgsTcgViolationKind kind, const char *detail)
{
    CgsTcgGuest *g = cgs_guest;
    CgsTcgViolation *v = describe(env, acc, kind, detail);

    v->action = g->on_violation;
    switch (v->action) {
    case CGS_TCG_POLICY_REPORT:
        if (kind == CGS_TCG_VIOLATION_KIND_UNACCEPTED && !g->keep_contents &&
            !(cgs_byte(acc->gpa) & CGS_DIRTY)) {
            cgs_poison(acc->gpa & TARGET_PAGE_MASK, 1);
        }
        publish(env, v);
        return true;
    case CGS_TCG_POLICY_INJECT: {
        const char *fatal = NULL;
        CgsTcgViolation *copy = QAPI_CLONE(CgsTcgViolation, v);

        publish(env, copy);
        if (cgs_class()->inject &&
            cgs_class()->inject(env, acc, kind, &fatal)) {
            qapi_free_CgsTcgViolation(v);
            return true;
        }
        /* counted already */
        WITH_QEMU_LOCK_GUARD(&g->lock) {
            g->stats.violations[kind]--;
        }
        g_free(v->detail);
        v->detail = g_strdup_printf("%s; hardware or its host would end the "
                                    "guest here: %s", default_detail(kind),
                                    fatal ?: "not injectable");
        break;
    }
    default:
        break;
    }
    v->action = CGS_TCG_POLICY_STOP;
    if (acc->ra) {
        cpu_restore_state(env_cpu(env), acc->ra);
        v->rip = env->eip;
    }
    publish(env, v);
    stop_vcpu(env, RUN_STATE_PAUSED);
}

void cgs_device_violation(hwaddr gpa, bool write)
{
    CgsAccess acc = { .gpa = gpa, .type = CGS_TCG_ACCESS_DEVICE,
                      .state = cgs_state(gpa) };
    CgsTcgViolation *v = describe(NULL, &acc, CGS_TCG_VIOLATION_KIND_DMA,
                                  write ? "device write to a page that is not "
                                          "shared"
                                        : "device read of a page that is not "
                                          "shared");

    v->action = cgs_guest->on_violation;
    publish(NULL, v);
    if (cgs_guest->on_violation == CGS_TCG_POLICY_STOP) {
        /* not at once: this may be in the middle of a device's work */
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(RUN_STATE_PAUSED);
    }
}

void cgs_fatal(CPUX86State *env, uint64_t code, const char *message,
               bool has_gpa, uint64_t gpa)
{
    CgsTcgGuest *g = cgs_guest;
    CgsTcgFatal *f = g_new0(CgsTcgFatal, 1);
    CgsEvent ev = { .kind = CGS_EV_FATAL, .gpa = gpa, .code = code };

    f->code = code;
    f->message = g_strdup(message);
    for (char *p = f->message; *p; p++) {
        if (!g_ascii_isprint(*p)) {
            *p = '?';
        }
    }
    f->has_gpa = has_gpa;
    f->gpa = gpa;
    f->vcpu = env_cpu(env)->cpu_index;
    f->rip = env->eip;
    f->rsp = env->regs[R_ESP];
    f->stack = read_stack(env);
    cgs_event(env, &ev);
    {
        BQL_LOCK_GUARD();
        qapi_event_send_cgs_tcg_fatal(f->code, f->message, f->has_gpa, f->gpa,
                                      f->vcpu, f->rip, f->rsp, f->stack);
    }
    error_report("%s: the guest reports a fatal error: code 0x%" PRIx64 ": %s",
                 cgs_class()->platform, code, f->message);
    WITH_QEMU_LOCK_GUARD(&g->lock) {
        qapi_free_CgsTcgFatal(g->fatal);
        g->fatal = f;
    }
    stop_vcpu(env, RUN_STATE_GUEST_PANICKED);
}
