/*
 * Emulated AMD SEV-SNP guest for TCG: the object
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/vmstate.h"
#include "qom/object_interfaces.h"
#include "cgs/snp.h"

static const VMStateDescription vmstate_snp = {
    .name = "snp-tcg",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(ap_jump_table, SnpTcgGuest),
        VMSTATE_END_OF_LIST()
    },
};

static void snp_complete(CgsTcgGuest *g, Error **errp)
{
    SnpTcgGuest *s = SNP_TCG_GUEST(g);

    /* 47 on Milan, 51 since Genoa; the field of CPUID has 6 bits */
    if (s->cbitpos < 32 || s->cbitpos > 51) {
        error_setg(errp, "'cbitpos' is %u; give a bit from 32 to 51",
                   s->cbitpos);
        return;
    }
    g->addr_bit = 1ull << s->cbitpos;
    g->bit_is_shared = false;
    vmstate_register(NULL, 0, &vmstate_snp, s);
}

static void snp_instance_init(Object *obj)
{
    SnpTcgGuest *s = SNP_TCG_GUEST(obj);

    s->cbitpos = 51;
    s->coherency_sfw_no = true;
    object_property_add_uint32_ptr(obj, "cbitpos", &s->cbitpos,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint16_ptr(obj, "psc-entries", &s->psc_entries,
                                   OBJ_PROP_FLAG_READWRITE);
}

static void snp_class_init(ObjectClass *oc, void *data)
{
    static const CgsSwitch switches[] = {
        { "coherency-sfw-no", "validated pages need no eviction of cache lines",
          offsetof(SnpTcgGuest, coherency_sfw_no) },
        { "apic-id-list", "the hypervisor has the SNP APIC ID List event",
          offsetof(SnpTcgGuest, apic_id_list) },
        { "kernel-hashes", "hashes of the kernel for the firmware",
          offsetof(SnpTcgGuest, kernel_hashes) },
    };
    CgsTcgClass *cls = CGS_TCG_GUEST_CLASS(oc);

    cls->platform = "snp";
    cls->platform_id = CGS_ID_SNP;
    cls->fw_is_private = true;
    cls->code_is_private = true;
    cls->low_hole = true;
    cls->complete = snp_complete;
    cls->firmware = snp_firmware;
    cls->launch = snp_launch;
    cls->reset_vcpu = snp_reset_vcpu;
    cls->vcpu_init = snp_vcpu_init;
    cls->vcpu_sipi = snp_vcpu_sipi;
    cls->cpuid = snp_cpuid;
    cls->kernel_loader = snp_kernel_loader;
    cls->inject = snp_inject;
    cls->tolerate = snp_tolerate;
    cls->forbid = snp_forbid;
    cls->mmio = snp_mmio;
    cls->intercept = snp_intercept;
    cgs_class_switches(oc, switches, ARRAY_SIZE(switches));
}

static const TypeInfo snp_info = {
    .name = TYPE_SNP_TCG_GUEST,
    .parent = TYPE_CGS_TCG_GUEST,
    .instance_size = sizeof(SnpTcgGuest),
    .instance_init = snp_instance_init,
    .class_init = snp_class_init,
};

static void snp_register(void)
{
    type_register_static(&snp_info);
}
type_init(snp_register)
