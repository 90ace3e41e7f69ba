/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: starting and stopping vCPUs
 *
 * The SNP AP Creation and AP Reset Hold events of the GHCB specification, and
 * what INIT and SIPI do to a vCPU whose registers the hypervisor cannot change
 * (KVM's sev_vcpu_deliver_sipi_vector() and sev_snp_init_protected_guest_state(),
 * Linux 7.3).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "exec/cputlb.h"
#include "hw/i386/apic_internal.h"
#include "tcg/helper-tcg.h"
#include "cgs/snp.h"

enum { AP_CREATE_ON_INIT, AP_CREATE, AP_DESTROY };

uint64_t snp_hv_features(void)
{
    return GHCB_HV_SNP | GHCB_HV_AP_CREATION |
           (snp_guest()->apic_id_list ? GHCB_HV_APIC_ID_LIST : 0);
}

static X86CPU *cpu_by_apic_id(uint32_t id)
{
    CPUState *cs;

    CPU_FOREACH(cs) {
        if (X86_CPU(cs)->apic_id == id) {
            return X86_CPU(cs);
        }
    }
    return NULL;
}

bool snp_vmsa_in_use(hwaddr gpa)
{
    CPUState *cs;

    CPU_FOREACH(cs) {
        CgsVcpu *v = &cpu_env(cs)->cgs;

        if (qatomic_read(&v->vmsa_gpa) == (gpa | SNP_VMSA_RUNS) &&
            qatomic_read(&v->ap_hold) == CGS_AP_HOLD_NONE &&
            !qatomic_read(&cs->halted)) {
            return true;
        }
    }
    return false;
}

/* Attributes of a VMCB segment: descriptor bits 55:52 and 47:40 */
static uint32_t segment_flags(const uint8_t *p)
{
    uint16_t attr = lduw_le_p(p + 2);

    return (attr & 0xff) << 8 | (attr & 0xf00) << 12;
}

static void load_segment(CPUX86State *env, int seg, const uint8_t *p)
{
    cpu_x86_load_seg_cache(env, seg, lduw_le_p(p), ldq_le_p(p + 8),
                           ldl_le_p(p + 4), segment_flags(p));
}

static void load_table(SegmentCache *sc, const uint8_t *p)
{
    sc->selector = lduw_le_p(p);
    sc->flags = segment_flags(p);
    sc->limit = ldl_le_p(p + 4);
    sc->base = ldq_le_p(p + 8);
}

static void load_registers(CPUX86State *env, const uint8_t *v)
{
    static const int offset[] = {
        [R_EAX] = SAVE_RAX, [R_ECX] = SAVE_RCX, [R_EDX] = SAVE_RDX,
        [R_EBX] = SAVE_RBX, [R_ESP] = VMSA_RSP, [R_EBP] = VMSA_RBP,
        [R_ESI] = VMSA_RSI, [R_EDI] = VMSA_RDI,
    };
    int i;

    for (i = 0; i < CPU_NB_REGS; i++) {
        env->regs[i] = ldq_le_p(v + (i < 8 ? offset[i]
                                           : VMSA_R8 + 8 * (i - 8)));
    }
    env->eip = ldq_le_p(v + VMSA_RIP);
    cpu_load_eflags(env, ldq_le_p(v + VMSA_RFLAGS),
                    ~(CC_O | CC_S | CC_Z | CC_A | CC_P | CC_C | DF_MASK));
}

static void load_system_state(CPUX86State *env, const uint8_t *v)
{
    uint64_t efer = ldq_le_p(v + VMSA_EFER);

    /* leave paging first, so that a change of mode is one from scratch */
    cpu_x86_update_cr0(env, CR0_ET_MASK);
    /* SVME has to be set in a VMSA but is not the guest's */
    cpu_load_efer(env, efer & ~(MSR_EFER_SVME | MSR_EFER_LMA));
    cpu_x86_update_cr4(env, ldq_le_p(v + VMSA_CR4));
    cpu_x86_update_cr3(env, ldq_le_p(v + VMSA_CR3));
    cpu_x86_update_cr0(env, ldq_le_p(v + VMSA_CR0));
    env->cr[2] = ldq_le_p(v + VMSA_CR2);
    load_segment(env, R_ES, v + VMSA_ES);
    load_segment(env, R_CS, v + VMSA_CS);
    load_segment(env, R_SS, v + VMSA_SS);
    load_segment(env, R_DS, v + VMSA_DS);
    load_segment(env, R_FS, v + VMSA_FS);
    load_segment(env, R_GS, v + VMSA_GS);
    load_table(&env->gdt, v + VMSA_GDTR);
    load_table(&env->ldt, v + VMSA_LDTR);
    load_table(&env->idt, v + VMSA_IDTR);
    load_table(&env->tr, v + VMSA_TR);
    env->dr[6] = ldq_le_p(v + VMSA_DR6);
    cpu_x86_update_dr7(env, ldq_le_p(v + VMSA_DR7));
}

static void load_msrs(CPUX86State *env, const uint8_t *v)
{
    env->star = ldq_le_p(v + VMSA_STAR);
    env->lstar = ldq_le_p(v + VMSA_LSTAR);
    env->cstar = ldq_le_p(v + VMSA_CSTAR);
    env->fmask = ldq_le_p(v + VMSA_SFMASK);
    env->kernelgsbase = ldq_le_p(v + VMSA_KERNEL_GS_BASE);
    env->sysenter_cs = ldl_le_p(v + VMSA_SYSENTER_CS);
    env->sysenter_esp = ldq_le_p(v + VMSA_SYSENTER_ESP);
    env->sysenter_eip = ldq_le_p(v + VMSA_SYSENTER_EIP);
    env->pat = ldq_le_p(v + VMSA_G_PAT);
    env->tsc_aux = ldl_le_p(v + VMSA_TSC_AUX);
    env->pkru = ldl_le_p(v + VMSA_PKRU);
    env->xcr0 = ldq_le_p(v + SAVE_XCR0);
    env->xss = ldq_le_p(v + SAVE_XSS);
}

static void load_fpu(CPUX86State *env, const uint8_t *v)
{
    uint16_t fsw = lduw_le_p(v + VMSA_X87_FSW);
    uint16_t ftw = lduw_le_p(v + VMSA_X87_FTW);
    int i;

    /* two bits for each register in the VMSA, 3 is empty */
    for (i = 0; i < 8; i++) {
        env->fptags[i] = (ftw >> (2 * i) & 3) == 3;
    }
    env->fpus = fsw & ~0x3800;
    env->fpstt = fsw >> 11 & 7;
    cpu_set_fpuc(env, lduw_le_p(v + VMSA_X87_FCW));
    cpu_set_mxcsr(env, ldl_le_p(v + VMSA_MXCSR));
}

/* What VMRUN does with the VMSA; on the vCPU's own thread, with the BQL */
static void load_vmsa(CPUState *cs, hwaddr gpa)
{
    X86CPU *cpu = X86_CPU(cs);
    CPUX86State *env = &cpu->env;
    CgsEvent ev = { .kind = CGS_EV_VCPU, .gpa = gpa, .npages = 1,
                    .aux = cs->cpu_index };
    uint8_t v[TARGET_PAGE_SIZE];

    address_space_read(&address_space_memory, gpa, MEMTXATTRS_UNSPECIFIED, v,
                       sizeof(v));
    load_system_state(env, v);
    load_registers(env, v);
    load_msrs(env, v);
    load_fpu(env, v);
    env->cgs = (CgsVcpu){ .vmsa_gpa = gpa | SNP_VMSA_RUNS, .started = true };
    env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    env->hflags2 &= ~HF2_NMI_MASK;
    cpu_reset_interrupt(cs, CPU_INTERRUPT_INIT | CPU_INTERRUPT_SIPI |
                        CPU_INTERRUPT_NMI);
    APIC_COMMON(cpu->apic_state)->wait_for_sipi = 0;
    cs->exception_index = -1;
    cs->halted = 0;
    tlb_flush(cs);
    cgs_event(env, &ev);
}

static void create_now(CPUState *cs, run_on_cpu_data data)
{
    load_vmsa(cs, data.target_ptr);
}

static void destroy(CPUState *cs, run_on_cpu_data data)
{
    cpu_env(cs)->cgs.ap_hold = CGS_AP_HOLD_DESTROYED;
    APIC_COMMON(X86_CPU(cs)->apic_state)->wait_for_sipi = 1;
    cs->halted = 1;
}

/* VMRUN refuses a VMSA that is not valid; KVM checks address and features. */
static bool vmsa_valid(hwaddr gpa, uint64_t features)
{
    uint8_t v[TARGET_PAGE_SIZE];

    if ((gpa & ~TARGET_PAGE_MASK) || QEMU_IS_ALIGNED(gpa, 2 * MiB) ||
        cgs_state(gpa) != CGS_TCG_STATE_PRIVATE ||
        !(cgs_byte(gpa) & SNP_VMSA) || features != SEV_FEATURE_SNP_ACTIVE) {
        return false;
    }
    address_space_read(&address_space_memory, gpa, MEMTXATTRS_UNSPECIFIED, v,
                       sizeof(v));
    return (ldq_le_p(v + VMSA_EFER) & MSR_EFER_SVME) && v[VMSA_VMPL] == 0 &&
           ldq_le_p(v + VMSA_SEV_FEATURES) == SEV_FEATURE_SNP_ACTIVE;
}

void snp_nae_ap_creation(CPUX86State *env, SnpGhcb *g)
{
    uint64_t info1 = g->info1;
    hwaddr gpa = g->info2;
    uint32_t request = info1;
    X86CPU *cpu = cpu_by_apic_id(info1 >> 32);

    /* bits 31:16 are the VMPL: only 0 exists */
    if (!cpu || request > AP_DESTROY ||
        (request != AP_DESTROY && (!ghcb_given(g, SAVE_RAX) ||
                                   !vmsa_valid(gpa, ghcb_get(g, SAVE_RAX))))) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_INPUT);
        return;
    }
    ghcb_answer(g, GHCB_NO_ACTION, 0);
    switch (request) {
    case AP_CREATE_ON_INIT:
        qatomic_set(&cpu->env.cgs.vmsa_pending, gpa | SNP_VMSA_RUNS);
        break;
    case AP_CREATE:
        /* the page that it ran from is free at once */
        qatomic_set(&cpu->env.cgs.vmsa_gpa, gpa | SNP_VMSA_RUNS);
        async_run_on_cpu(CPU(cpu), create_now, RUN_ON_CPU_TARGET_PTR(gpa));
        break;
    case AP_DESTROY:
        qatomic_set(&cpu->env.cgs.vmsa_gpa, 0);
        async_run_on_cpu(CPU(cpu), destroy, RUN_ON_CPU_NULL);
        break;
    }
}

/* SNP APIC ID List: RAX pages at SW_EXITINFO1 get a count and the APIC IDs */
void snp_nae_apic_ids(CPUX86State *env, SnpGhcb *g)
{
    hwaddr gpa = g->info1;
    uint64_t pages = ghcb_get(g, SAVE_RAX);
    g_autofree uint32_t *list = NULL;
    uint64_t need;
    uint32_t n = 0;
    CPUState *cs;

    CPU_FOREACH(cs) {
        n++;
    }
    need = DIV_ROUND_UP((n + 1) * 4, TARGET_PAGE_SIZE);
    ghcb_set(g, SAVE_RAX, need);
    if (!gpa || pages < need) {
        return;
    }
    list = g_malloc0(need * TARGET_PAGE_SIZE);
    list[0] = cpu_to_le32(n);
    n = 1;
    CPU_FOREACH(cs) {
        list[n++] = cpu_to_le32(X86_CPU(cs)->apic_id);
    }
    address_space_write(cgs_dma_as(), gpa, MEMTXATTRS_UNSPECIFIED, list,
                        need * TARGET_PAGE_SIZE);
}

/* The launch gives every vCPU a VMSA with the reset state of QEMU's CPU. */
void snp_reset_vcpu(X86CPU *cpu)
{
    cpu->env.cgs.started = cpu_is_bsp(cpu);
}

/* INIT does not touch a vCPU's registers, they are encrypted */
bool snp_vcpu_init(X86CPU *cpu)
{
    CPUX86State *env = &cpu->env;
    hwaddr pending = qatomic_xchg(&env->cgs.vmsa_pending, 0);

    if (pending) {
        load_vmsa(CPU(cpu), pending & ~SNP_VMSA_RUNS);
        return true;
    }
    if (!env->cgs.started) {
        return false;
    }
    cpu_reset_interrupt(CPU(cpu), CPU_INTERRUPT_INIT);
    apic_init_reset(cpu->apic_state);
    APIC_COMMON(cpu->apic_state)->wait_for_sipi = 1;
    CPU(cpu)->halted = 1;
    return true;
}

/* SW_EXITINFO2 or GHCBData tells a held vCPU that it was woken by a SIPI */
static void answer_hold(CPUX86State *env)
{
    AddressSpace *as = cpu_get_address_space(env_cpu(env), 0);
    SnpGhcb g = { .gpa = env->cgs.ghcb_msr };

    if (env->cgs.ap_hold == CGS_AP_HOLD_MSR) {
        env->cgs.ghcb_msr = 1 << 12 | GHCB_MSR_AP_HOLD_RESP;
    } else if (snp_is_shared(g.gpa)) {
        address_space_read(as, g.gpa, MEMTXATTRS_UNSPECIFIED, g.page,
                           GHCB_SIZE);
        ghcb_answer(&g, GHCB_NO_ACTION, 1);
        address_space_write(as, g.gpa, MEMTXATTRS_UNSPECIFIED, g.page,
                            GHCB_SIZE);
    }
    env->cgs.ap_hold = CGS_AP_HOLD_NONE;
}

/*
 * The first SIPI starts a vCPU from the VMSA of the launch, which points to
 * the firmware's reset block; its vector means nothing. Later ones only wake a
 * vCPU from AP Reset Hold or from INIT.
 */
bool snp_vcpu_sipi(X86CPU *cpu)
{
    CPUX86State *env = &cpu->env;
    APICCommonState *apic = APIC_COMMON(cpu->apic_state);
    uint32_t addr = snp_guest()->ap_reset_addr;

    if (env->cgs.ap_hold) {
        answer_hold(env);
    } else if (!apic->wait_for_sipi) {
        return true;
    } else if (!env->cgs.started) {
        if (!addr) {
            return false;
        }
        cpu_x86_load_seg_cache(env, R_CS, 0xf000, addr & 0xffff0000, 0xffff,
                               DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK |
                               DESC_R_MASK | DESC_A_MASK);
        env->eip = addr & 0xffff;
        env->cgs.started = true;
    }
    apic->wait_for_sipi = 0;
    CPU(cpu)->halted = 0;
    return true;
}
