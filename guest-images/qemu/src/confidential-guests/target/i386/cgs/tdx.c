/*
 * Emulated Intel TDX guest for TCG: the object, vCPU reset state, CPUID
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "hw/i386/apic.h"
#include "migration/vmstate.h"
#include "qom/object_interfaces.h"
#include "cgs/tdx.h"

OBJECT_DEFINE_SIMPLE_TYPE_WITH_INTERFACES(TdxTcgGuest, tdx_tcg_guest,
                                          TDX_TCG_GUEST, CGS_TCG_GUEST,
                                          { NULL })

static void flat_segment(CPUX86State *env, int seg, uint32_t flags)
{
    cpu_x86_load_seg_cache(env, seg, 0, 0, 0xffffffff,
                           DESC_G_MASK | DESC_B_MASK | DESC_P_MASK |
                           DESC_S_MASK | DESC_A_MASK | flags);
}

/*
 * What TDH.VP.INIT leaves (td_vmcs_init.c, tdh_vp_init.c): 32-bit protected
 * mode without paging at the reset vector, on every vCPU. CR4.VMXE and
 * CR0.CD/NW are the module's and not visible to the guest.
 */
static void tdx_reset_vcpu(X86CPU *cpu)
{
    TdxTcgGuest *td = tdx_guest();
    CPUX86State *env = &cpu->env;
    CPUState *cs = CPU(cpu);

    cpu_load_efer(env, MSR_EFER_LME | MSR_EFER_NXE | MSR_EFER_SCE);
    cpu_x86_update_cr4(env, CR4_MCE_MASK);
    cpu_x86_update_cr0(env, CR0_PE_MASK | CR0_NE_MASK | CR0_ET_MASK);
    flat_segment(env, R_CS, DESC_CS_MASK | DESC_R_MASK);
    for (int i = 0; i < 6; i++) {
        if (i != R_CS) {
            flat_segment(env, i, DESC_W_MASK);
        }
    }
    env->idt.limit = 0;
    env->gdt.limit = 0xffff;
    env->eip = 0xfffffff0;
    memset(env->regs, 0, sizeof(env->regs));
    env->regs[R_EBX] = td->gpaw;
    env->regs[R_ECX] = td->hob_addr;
    env->regs[8] = td->hob_addr;
    env->regs[R_EDX] = env->cpuid_version;
    env->regs[R_ESI] = cs->cpu_index;
    env->mtrr_deftype = 0x806;              /* enabled, write-back */
    cs->halted = 0;
    cpu_set_apic_base(cpu->apic_state, APIC_DEFAULT_ADDRESS |
                      MSR_IA32_APICBASE_ENABLE | MSR_IA32_APICBASE_EXTD |
                      (cs->cpu_index ? 0 : MSR_IA32_APICBASE_BSP));
    cpu_sync_bndcs_hflags(env);
}

static void tdx_cpuid(CPUX86State *env, uint32_t index, uint32_t count,
                      uint32_t *eax, uint32_t *ebx, uint32_t *ecx,
                      uint32_t *edx)
{
    if (index == 0) {
        *eax = MAX(*eax, 0x21);
    } else if (index == 0x21) {
        *eax = *ebx = *ecx = *edx = 0;
        if (count == 0) {
            *ebx = 0x65746e49;              /* "Inte" */
            *edx = 0x5844546c;              /* "lTDX" */
            *ecx = 0x20202020;              /* "    " */
        }
    } else if (index > env->cpuid_level && index < 0x21) {
        *eax = *ebx = *ecx = *edx = 0;
    } else if (index == 0x40000000) {
        /*
         * The host is KVM without any paravirtual feature: Linux turns x2APIC
         * off under a hypervisor that it does not know (try_to_enable_x2apic()
         * in arch/x86/kernel/apic/apic.c, 6.12), and a TD has no xAPIC.
         */
        *eax = 0x40000001;
        *ebx = 0x4b4d564b;
        *ecx = 0x564b4d56;
        *edx = 0x4d;
    } else if (index >> 16 == 0x4000) {
        *eax = *ebx = *ecx = *edx = 0;
    }
}

static const VMStateDescription vmstate_tdx = {
    .name = "cgs-tcg/tdx",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64_EQUAL(attributes, TdxTcgGuest,
                             "the state has other TD attributes"),
        VMSTATE_UINT64(pending_ve_disable, TdxTcgGuest),
        VMSTATE_UINT64(notify_enables, TdxTcgGuest),
        VMSTATE_UINT8_2DARRAY(rtmr, TdxTcgGuest, TDX_RTMRS, TDX_HASH_BYTES),
        VMSTATE_END_OF_LIST()
    }
};

static void tdx_complete(CgsTcgGuest *g, Error **errp)
{
    TdxTcgGuest *td = TDX_TCG_GUEST(g);

    if (td->gpaw != 48 && td->gpaw != 52) {
        error_setg(errp, "'gpaw' must be 48 or 52");
        return;
    }
    g->addr_bit = BIT_ULL(td->gpaw - 1);
    g->bit_is_shared = true;
    /* or the shared bit would be a reserved bit of page tables */
    object_register_sugar_prop(TYPE_X86_CPU, "phys-bits", "52", false);
    vmstate_register(NULL, 0, &vmstate_tdx, td);
}

static void tdx_tcg_guest_init(Object *obj)
{
    TdxTcgGuest *td = TDX_TCG_GUEST(obj);

    td->gpaw = 52;
    td->attributes = TDX_ATTR_SEPT_VE_DISABLE;
    object_property_add_uint32_ptr(obj, "gpaw", &td->gpaw,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint64_ptr(obj, "attributes", &td->attributes,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint64_ptr(obj, "mapgpa-retry-pages",
                                   &td->mapgpa_retry_pages,
                                   OBJ_PROP_FLAG_READWRITE);
}

static void tdx_tcg_guest_finalize(Object *obj)
{
}

static void tdx_tcg_guest_class_init(ObjectClass *oc, void *data)
{
    static const CgsSwitch switches[] = {
        { "flexible-pending-ve", "the guest chooses whether pending pages raise "
          "#VE", offsetof(TdxTcgGuest, flexible_pending_ve) },
    };
    CgsTcgClass *cls = CGS_TCG_GUEST_CLASS(oc);

    cls->platform = "tdx";
    cls->platform_id = CGS_ID_TDX;
    cls->fw_is_private = true;
    cls->complete = tdx_complete;
    cls->firmware = tdx_firmware;
    cls->launch = tdx_launch;
    cls->reset_vcpu = tdx_reset_vcpu;
    cls->cpuid = tdx_cpuid;
    cls->inject = tdx_inject;
    cls->mmio = tdx_mmio;
    cls->intercept = tdx_intercept;
    cgs_class_switches(oc, switches, ARRAY_SIZE(switches));
}
