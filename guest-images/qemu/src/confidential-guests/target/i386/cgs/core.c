/*
 * Emulated confidential guests for TCG: the object, launch and reset
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"
#include "system/system.h"
#include "system/tcg.h"
#include "exec/address-spaces.h"
#include "hw/boards.h"
#include "hw/i386/e820_memory_layout.h"
#include "cgs/cgs.h"
#include "cgs/internal.h"

CgsTcgGuest *cgs_guest;
uint64_t cgs_addr_bit;
bool cgs_intercepts;
bool cgs_is_tdx;
bool cgs_is_snp;

static const hwaddr low_hole = 0xa0000, low_hole_end = 0x100000;

static void mark(CgsTcgGuest *g, hwaddr gpa, uint64_t size, uint8_t state)
{
    for (uint64_t p = gpa >> 12; p < MIN((gpa + size) >> 12, g->nr_pages); p++) {
        /* what was once written stays in memory over a reset */
        g->state[p] = (g->state[p] & CGS_DIRTY) | state;
    }
}

/* RAM that the machine was started with, and what plug() has added since. */
static void mark_ram(CgsTcgGuest *g)
{
    DeviceMemoryState *dms = current_machine->device_memory;
    uint64_t start, len;

    for (uint64_t p = dms ? dms->base >> 12 : g->nr_pages; p < g->nr_pages; p++) {
        if (g->state[p] & CGS_STATE_MASK) {
            mark(g, p << 12, 4096, CGS_TCG_STATE_PENDING);
        }
    }

    for (int i = 0; i < e820_get_table(NULL); i++) {
        if (e820_get_entry(i, E820_RAM, &start, &len)) {
            mark(g, start, len, CGS_TCG_STATE_PENDING);
        }
    }
    if (cgs_class()->low_hole) {
        mark(g, low_hole, low_hole_end - low_hole, CGS_TCG_STATE_NONE);
    }
}

static bool in_device_memory(const MemoryRegionSection *s)
{
    DeviceMemoryState *dms = current_machine->device_memory;
    hwaddr at = s->offset_within_address_space;

    return dms && memory_region_is_ram(s->mr) && at >= dms->base &&
           at < dms->base + memory_region_size(&dms->mr);
}

static void plug(MemoryListener *listener, MemoryRegionSection *s)
{
    hwaddr gpa = s->offset_within_address_space;
    uint64_t npages = int128_get64(s->size) >> 12;
    CgsEvent ev = { .kind = CGS_EV_PLUG, .gpa = gpa, .npages = npages,
                    .after = CGS_TCG_STATE_PENDING };

    if (in_device_memory(s)) {
        mark(cgs_guest, gpa, npages << 12, CGS_TCG_STATE_PENDING);
        WITH_QEMU_LOCK_GUARD(&cgs_guest->lock) {
            cgs_guest->stats.plugged += npages;
        }
        cgs_event(NULL, &ev);
    }
}

static void unplug(MemoryListener *listener, MemoryRegionSection *s)
{
    hwaddr gpa = s->offset_within_address_space;
    uint64_t npages = int128_get64(s->size) >> 12, pending = 0;
    CgsEvent ev = { .kind = CGS_EV_UNPLUG, .gpa = gpa, .npages = npages };

    if (in_device_memory(s)) {
        for (uint64_t i = 0; i < npages; i++) {
            pending += cgs_state(gpa + (i << 12)) == CGS_TCG_STATE_PENDING;
        }
        mark(cgs_guest, gpa, npages << 12, CGS_TCG_STATE_NONE);
        WITH_QEMU_LOCK_GUARD(&cgs_guest->lock) {
            cgs_guest->stats.unplugged += pending;
        }
        ev.aux = pending;
        cgs_event(NULL, &ev);
    }
}

static MemoryListener cgs_listener = {
    .name = "cgs-tcg",
    .region_add = plug,
    .region_del = unplug,
};

static void machine_done(Notifier *n, void *data)
{
    CgsTcgGuest *g = container_of(n, CgsTcgGuest, machine_done);
    DeviceMemoryState *dms = current_machine->device_memory;
    uint64_t top = 1ull << 32, start, len;

    if (!g->fw) {
        error_report("%s: the guest has no firmware; give a firmware image "
                     "with -bios", object_get_typename(OBJECT(g)));
        exit(1);
    }
    for (int i = 0; i < e820_get_table(NULL); i++) {
        if (e820_get_entry(i, E820_RAM, &start, &len)) {
            top = MAX(top, start + len);
        }
    }
    if (dms) {
        top = MAX(top, dms->base + memory_region_size(&dms->mr));
    }
    g->nr_pages = top >> 12;
    g->state = g_malloc0(g->nr_pages);
    memory_listener_register(&cgs_listener, &address_space_memory);
    cgs_vmstate_register(g);
}

static void launch(CgsTcgGuest *g)
{
    CgsEvent ev = { .kind = CGS_EV_LAUNCH };
    uint64_t launches = g->stats.launches + 1, plugged[4];

    mark_ram(g);
    if (cgs_class()->fw_is_private) {
        cgs_launch_write((1ull << 32) - g->fw_size, g->fw_copy, g->fw_size);
    }
    cgs_class()->launch(g);
    cgs_count_pages(plugged);
    WITH_QEMU_LOCK_GUARD(&g->lock) {
        g->stats = (CgsStats){ .launches = launches };
        memcpy(g->stats.launch_pages, plugged, sizeof(plugged));
        g->reported = 0;
        qapi_free_CgsTcgFatal(g->fatal);
        g->fatal = NULL;
        qapi_free_CgsTcgViolation(g->last_violation);
        g->last_violation = NULL;
    }
    ev.npages = plugged[CGS_TCG_STATE_PENDING];
    ev.aux = plugged[CGS_TCG_STATE_PRIVATE];
    cgs_event(NULL, &ev);
}

void cgs_after_reset(X86CPU *cpu)
{
    if (!cgs_enabled()) {
        return;
    }
    if (CPU(cpu)->cpu_index == 0) {
        launch(cgs_guest);
    }
    cgs_class()->reset_vcpu(cpu);
}

void cgs_launch_pages(hwaddr gpa, uint64_t size, uint8_t bits)
{
    mark(cgs_guest, gpa, size, CGS_TCG_STATE_PRIVATE | CGS_DIRTY | bits);
}

void cgs_cpuid(CPUX86State *env, uint32_t index, uint32_t count,
               uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    if (cgs_enabled() && cgs_class()->cpuid) {
        cgs_class()->cpuid(env, index, count, eax, ebx, ecx, edx);
    }
}

void cgs_kernel_loader(const struct SevKernelLoaderContext *ctx, Error **errp)
{
    if (cgs_enabled() && cgs_class()->kernel_loader) {
        cgs_class()->kernel_loader(cgs_guest, ctx, errp);
    }
}

bool cgs_vcpu_init(X86CPU *cpu)
{
    return cgs_enabled() && cgs_class()->vcpu_init &&
           cgs_class()->vcpu_init(cpu);
}

bool cgs_vcpu_sipi(X86CPU *cpu)
{
    return cgs_enabled() && cgs_class()->vcpu_sipi &&
           cgs_class()->vcpu_sipi(cpu);
}

int cgs_held_interrupt(CPUX86State *env, int interrupt_request)
{
    return env->cgs.ap_hold == CGS_AP_HOLD_DESTROYED
           ? 0 : interrupt_request & CPU_INTERRUPT_SIPI;
}

void cgs_intercept(CPUX86State *env, uint32_t exit_code, uint64_t param,
                   uintptr_t ra)
{
    cgs_class()->intercept(env, exit_code, param, ra);
}

static void cgs_complete(UserCreatable *uc, Error **errp)
{
    CgsTcgGuest *g = CGS_TCG_GUEST(uc);
    ERRP_GUARD();

    if (cgs_guest) {
        error_setg(errp, "only one emulated confidential guest is possible");
        return;
    }
    CGS_TCG_GUEST_GET_CLASS(g)->complete(g, errp);
    if (*errp) {
        return;
    }
    cgs_events_open(g, errp);
    if (*errp) {
        return;
    }
    cgs_guest = g;
    cgs_addr_bit = g->addr_bit;
    cgs_intercepts = g->intercepts && cgs_class()->intercept;
    cgs_is_tdx = cgs_class()->platform_id == CGS_ID_TDX;
    cgs_is_snp = cgs_class()->platform_id == CGS_ID_SNP;
    g->machine_done.notify = machine_done;
    qemu_add_machine_init_done_notifier(&g->machine_done);
    CONFIDENTIAL_GUEST_SUPPORT(g)->ready = true;
}

static void cgs_instance_init(Object *obj)
{
    CgsTcgGuest *g = CGS_TCG_GUEST(obj);

    g->check = true;
    g->max_page_level = 1;
    g->events_max = 256 << 20;
    g->calls = g_array_new(false, true, sizeof(CgsCall));
    qemu_mutex_init(&g->lock);
}

static void cgs_class_init(ObjectClass *oc, void *data)
{
    USER_CREATABLE_CLASS(oc)->complete = cgs_complete;
    cgs_class_properties(oc);
}

static const TypeInfo cgs_info = {
    .name = TYPE_CGS_TCG_GUEST,
    .parent = TYPE_CONFIDENTIAL_GUEST_SUPPORT,
    .abstract = true,
    .instance_size = sizeof(CgsTcgGuest),
    .instance_init = cgs_instance_init,
    .class_size = sizeof(CgsTcgClass),
    .class_init = cgs_class_init,
    .interfaces = (InterfaceInfo[]) { { TYPE_USER_CREATABLE }, { } },
};

static void cgs_register(void)
{
    type_register_static(&cgs_info);
}
type_init(cgs_register)
