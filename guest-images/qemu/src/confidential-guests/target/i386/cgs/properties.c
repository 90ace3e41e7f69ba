/*
 * Emulated confidential guests for TCG: properties common to the platforms
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qapi/qapi-visit-cgs-tcg.h"
#include "qom/object.h"
#include "cgs/cgs.h"
#include "cgs/internal.h"

static int get_policy(Object *obj, Error **errp)
{
    return CGS_TCG_GUEST(obj)->on_violation;
}

static void set_policy(Object *obj, int value, Error **errp)
{
    CGS_TCG_GUEST(obj)->on_violation = value;
}

/* What is compiled into TLB contents and vCPU state stays as it was. */
static bool may_change(Object *obj, const char *name, Error **errp)
{
    if (cgs_guest) {
        error_setg(errp, "'%s' cannot be changed while the guest exists", name);
        return false;
    }
    return true;
}

static bool *switch_field(Object *obj, void *opaque)
{
    return (bool *)((char *)obj + (uintptr_t)opaque);
}

static void get_switch(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    visit_type_bool(v, name, switch_field(obj, opaque), errp);
}

static void set_switch(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    bool value;

    if (visit_type_bool(v, name, &value, errp) &&
        may_change(obj, name, errp)) {
        *switch_field(obj, opaque) = value;
    }
}

void cgs_class_switches(ObjectClass *oc, const CgsSwitch *switches, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        object_class_property_add(oc, switches[i].name, "bool", get_switch,
                                  set_switch, NULL,
                                  (void *)(uintptr_t)switches[i].offset);
        object_class_property_set_description(oc, switches[i].name,
                                              switches[i].description);
    }
}

static char *get_events(Object *obj, Error **errp)
{
    return g_strdup(CGS_TCG_GUEST(obj)->events_path);
}

static void set_events(Object *obj, const char *value, Error **errp)
{
    if (may_change(obj, "events", errp)) {
        g_free(CGS_TCG_GUEST(obj)->events_path);
        CGS_TCG_GUEST(obj)->events_path = g_strdup(value);
    }
}

static void get_faults(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    CgsTcgFaultList *list = cgs_faults_get(CGS_TCG_GUEST(obj));

    visit_type_CgsTcgFaultList(v, name, &list, errp);
    qapi_free_CgsTcgFaultList(list);
}

static void set_faults(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    CgsTcgFaultList *list = NULL;

    if (visit_type_CgsTcgFaultList(v, name, &list, errp)) {
        cgs_faults_set(CGS_TCG_GUEST(obj), list);
    }
    qapi_free_CgsTcgFaultList(list);
}

static void get_level(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    visit_type_uint8(v, name, &CGS_TCG_GUEST(obj)->max_page_level, errp);
}

static void set_level(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    uint8_t level;

    if (!visit_type_uint8(v, name, &level, errp)) {
        return;
    }
    if (level >= CGS_LEVELS) {
        error_setg(errp, "'%s' is 0 for 4 KiB, 1 for 2 MiB or 2 for 1 GiB",
                   name);
        return;
    }
    CGS_TCG_GUEST(obj)->max_page_level = level;
}

static uint64_t *u64_field(Object *obj, void *opaque)
{
    return (uint64_t *)((char *)obj + (uintptr_t)opaque);
}

static void get_u64(Object *obj, Visitor *v, const char *name, void *opaque,
                    Error **errp)
{
    visit_type_uint64(v, name, u64_field(obj, opaque), errp);
}

static void set_u64(Object *obj, Visitor *v, const char *name, void *opaque,
                    Error **errp)
{
    visit_type_uint64(v, name, u64_field(obj, opaque), errp);
}

void cgs_class_properties(ObjectClass *oc)
{
    static const CgsSwitch switches[] = {
        { "check", "check page states", offsetof(CgsTcgGuest, check) },
        { "intercepts", "CPUID, MSR, I/O, MMIO and HLT raise the platform's "
          "exception", offsetof(CgsTcgGuest, intercepts) },
        { "keep-contents", "conversions leave contents as they are",
          offsetof(CgsTcgGuest, keep_contents) },
    };
    static const struct {
        const char *name, *description;
        size_t offset;
    } numbers[] = {
        { "events-max", "size limit of the event stream, in bytes",
          offsetof(CgsTcgGuest, events_max) },
        { "accept-ns-4k", "guest time to accept a 4 KiB page",
          offsetof(CgsTcgGuest, accept_ns[0]) },
        { "accept-ns-2m", "guest time to accept a 2 MiB page",
          offsetof(CgsTcgGuest, accept_ns[1]) },
        { "accept-ns-1g", "guest time to accept a 1 GiB page",
          offsetof(CgsTcgGuest, accept_ns[2]) },
        { "convert-ns", "guest time of a conversion call",
          offsetof(CgsTcgGuest, convert_ns) },
        { "convert-ns-4k", "guest time per 4 KiB page converted",
          offsetof(CgsTcgGuest, convert_ns_4k) },
    };

    object_class_property_add_enum(oc, "on-violation", "CgsTcgPolicy",
                                   &CgsTcgPolicy_lookup, get_policy,
                                   set_policy);
    object_class_property_set_description(oc, "on-violation",
        "stop, inject or report forbidden accesses");
    cgs_class_switches(oc, switches, ARRAY_SIZE(switches));
    object_class_property_add(oc, "max-page-level", "uint8", get_level,
                              set_level, NULL, NULL);
    object_class_property_set_description(oc, "max-page-level",
        "largest page that the host maps: 0, 1 or 2");
    object_class_property_add_str(oc, "events", get_events, set_events);
    object_class_property_set_description(oc, "events",
        "file of the event stream");
    object_class_property_add(oc, "faults", "CgsTcgFaultList", get_faults,
                              set_faults, NULL, NULL);
    object_class_property_set_description(oc, "faults",
        "defects to show on purpose");
    for (int i = 0; i < ARRAY_SIZE(numbers); i++) {
        object_class_property_add(oc, numbers[i].name, "uint64", get_u64,
                                  set_u64, NULL,
                                  (void *)(uintptr_t)numbers[i].offset);
        object_class_property_set_description(oc, numbers[i].name,
                                              numbers[i].description);
    }
}
