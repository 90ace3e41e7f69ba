/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: VMGEXIT, the hypervisor's side of the GHCB protocol
 *
 * "SEV-ES Guest-Hypervisor Communication Block Standardization" (AMD 56421): the
 * GHCB MSR protocol (2.3.1) and the non-automatic exits (NAE, 4.1). Where
 * it leaves a choice, KVM's (Linux 7.3, arch/x86/kvm/svm/sev.c) is taken.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "cgs/snp.h"

#define GHCB_VERSION_MAX 2
#define GHCB_VERSION_MIN 1

/* SNP guest requests go to the firmware, and there is none: no answer at all */
#define GUEST_REQUEST_REFUSED (0xffffffffull << 32)

/* quadwords of the save area that an exit needs, as bits */
enum {
    NEED_RAX = 1, NEED_RBX = 2, NEED_RCX = 4, NEED_RDX = 8, NEED_SCRATCH = 16,
    NEED_CPL = 32,
};

static const int need_offset[] = {
    SAVE_RAX, SAVE_RBX, SAVE_RCX, SAVE_RDX, GHCB_SCRATCH,
    SAVE_CPL & ~7,
};

uint8_t *snp_scratch(SnpGhcb *g, size_t len)
{
    uint64_t off = ghcb_get(g, GHCB_SCRATCH) - g->gpa;

    /* version 2: the scratch area is the GHCB's shared buffer */
    if (!len || off < GHCB_SHARED_BUFFER || off >= GHCB_SHARED_BUFFER_END ||
        len > GHCB_SHARED_BUFFER_END - off) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_SCRATCH);
        return NULL;
    }
    return g->page + off;
}

static void nae_nothing(CPUX86State *env, SnpGhcb *g)
{
}

/* RDPMC without performance counters; VMMCALL without KVM's signature */
static void nae_gp(CPUX86State *env, SnpGhcb *g)
{
    ghcb_answer(g, GHCB_EXCEPTION, GHCB_EVENT_GP);
}

static void nae_ud(CPUX86State *env, SnpGhcb *g)
{
    ghcb_answer(g, GHCB_EXCEPTION, GHCB_EVENT_UD);
}

static void nae_read_dr7(CPUX86State *env, SnpGhcb *g)
{
    ghcb_set(g, SAVE_RAX, env->dr[7]);
}

static void nae_nmi_complete(CPUX86State *env, SnpGhcb *g)
{
    env->hflags2 &= ~HF2_NMI_MASK;
}

static void nae_ap_reset_hold(CPUX86State *env, SnpGhcb *g)
{
    env->cgs.ap_hold = CGS_AP_HOLD_NAE;
    g->halt = true;
}

static void nae_ap_jump_table(CPUX86State *env, SnpGhcb *g)
{
    SnpTcgGuest *s = snp_guest();

    switch (g->info1) {
    case 0:
        qatomic_set(&s->ap_jump_table, g->info2);
        ghcb_answer(g, GHCB_NO_ACTION, 0);
        break;
    case 1:
        ghcb_answer(g, GHCB_NO_ACTION, qatomic_read(&s->ap_jump_table));
        break;
    default:
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_INPUT);
        break;
    }
}

static void nae_hv_features(CPUX86State *env, SnpGhcb *g)
{
    ghcb_answer(g, GHCB_NO_ACTION, snp_hv_features());
}

static void nae_guest_request(CPUX86State *env, SnpGhcb *g)
{
    uint64_t req = g->info1;
    uint64_t resp = g->info2;

    if ((req & ~TARGET_PAGE_MASK) || (resp & ~TARGET_PAGE_MASK) ||
        req == resp) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_INPUT);
        return;
    }
    ghcb_answer(g, GHCB_NO_ACTION, GUEST_REQUEST_REFUSED);
}

static G_NORETURN void terminate(CPUX86State *env, unsigned set, unsigned code)
{
    /* reason set 0: GHCB specification, 2.3.1; set 1: Linux, sev-common.h */
    static const char *const general[] = {
        "general termination request", "unsupported GHCB protocol",
        "SNP features not supported",
    };
    static const char *const linux_codes[] = {
        "GHCB registration failed", "page state change failed",
        "PVALIDATE failed", "not at VMPL0", "CPUID page is wrong",
        "CPUID by the hypervisor failed", "secrets page is wrong",
        "no SVSM", "SVSM at VMPL0", "SVSM calling area is not aligned",
        "secure TSC failed", "SVSM calling area not mapped",
        "secure AVIC failed",
    };
    const char *what = "unknown reason";
    g_autofree char *msg = NULL;

    if (set == 0 && code < ARRAY_SIZE(general)) {
        what = general[code];
    } else if (set == 1 && code < ARRAY_SIZE(linux_codes)) {
        what = linux_codes[code];
    }
    msg = g_strdup_printf("SEV-ES termination request %u:%u, %s%s", set, code,
                          set == 1 ? "Linux: " : "", what);
    cgs_fatal(env, set << 8 | code, msg, false, 0);
}

typedef struct SnpNae {
    uint32_t code;
    uint8_t need;
    void (*handle)(CPUX86State *env, SnpGhcb *g);
} SnpNae;

static const SnpNae nae_table[] = {
    { NAE_READ_DR7, 0, nae_read_dr7 },
    /* as KVM without DebugSwap: the guest keeps its own copy */
    { NAE_WRITE_DR7, NEED_RAX, nae_nothing },
    { SVM_EXIT_RDTSC, 0, snp_nae_tsc },
    { SVM_EXIT_RDTSCP, 0, snp_nae_tsc },
    { SVM_EXIT_RDPMC, NEED_RCX, nae_gp },
    { SVM_EXIT_CPUID, NEED_RAX | NEED_RCX, snp_nae_cpuid },
    { SVM_EXIT_INVD, 0, nae_nothing },
    { SVM_EXIT_IOIO, 0, snp_nae_ioio },
    { SVM_EXIT_MSR, NEED_RCX, snp_nae_msr },
    { SVM_EXIT_VMMCALL, NEED_RAX | NEED_CPL, nae_ud },
    { SVM_EXIT_WBINVD, 0, nae_nothing },
    { SVM_EXIT_MONITOR, NEED_RAX | NEED_RCX | NEED_RDX, nae_nothing },
    { SVM_EXIT_MWAIT, NEED_RAX | NEED_RCX, nae_nothing },
    { NAE_MMIO_READ, NEED_SCRATCH, snp_nae_mmio },
    { NAE_MMIO_WRITE, NEED_SCRATCH, snp_nae_mmio },
    { NAE_NMI_COMPLETE, 0, nae_nmi_complete },
    { NAE_AP_RESET_HOLD, 0, nae_ap_reset_hold },
    { NAE_AP_JUMP_TABLE, 0, nae_ap_jump_table },
    { NAE_PSC, NEED_SCRATCH, snp_nae_psc },
    { NAE_GUEST_REQUEST, 0, nae_guest_request },
    { NAE_EXT_GUEST_REQUEST, NEED_RAX | NEED_RBX, nae_guest_request },
    { NAE_AP_CREATION, 0, snp_nae_ap_creation },
    { NAE_APIC_IDS, NEED_RAX, snp_nae_apic_ids },
    { NAE_HV_FEATURES, 0, nae_hv_features },
    { NAE_UNSUPPORTED, 0, nae_nothing },
};

static const SnpNae *find_nae(uint64_t code)
{
    int i;

    if (code == NAE_APIC_IDS && !snp_guest()->apic_id_list) {
        return NULL;
    }
    for (i = 0; i < ARRAY_SIZE(nae_table); i++) {
        if (nae_table[i].code == code) {
            return &nae_table[i];
        }
    }
    return NULL;
}

static bool fields_given(const SnpGhcb *g, unsigned need)
{
    int i;

    if (!ghcb_given(g, GHCB_EXIT_CODE) || !ghcb_given(g, GHCB_INFO1) ||
        !ghcb_given(g, GHCB_INFO2)) {
        return false;
    }
    for (i = 0; i < ARRAY_SIZE(need_offset); i++) {
        if ((need & (1 << i)) && !ghcb_given(g, need_offset[i])) {
            return false;
        }
    }
    return true;
}

static void serve(CPUX86State *env, SnpGhcb *g)
{
    const SnpNae *nae;

    cgs_count_call("nae", g->code);
    if (env->cgs.ghcb_gpa != g->gpa) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_NOT_REGISTERED);
    } else if (ldl_le_p(g->page + GHCB_USAGE)) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_USAGE);
    } else if (ghcb_given(g, GHCB_EXIT_CODE) && g->code == NAE_TERMINATE) {
        terminate(env, extract64(g->info1, 0, 4),
                  extract64(g->info1, 4, 8));
    } else if (!(nae = find_nae(g->code))) {
        cgs_unknown_call(env, "nae", g->code);
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_EVENT);
    } else if (!fields_given(g, nae->need)) {
        ghcb_answer(g, GHCB_MALFORMED, GHCB_ERR_MISSING);
    } else {
        ghcb_answer(g, GHCB_NO_ACTION, 0);
        nae->handle(env, g);
    }
}

/* The GHCB page; returns true if the vCPU is to halt. */
static bool vmgexit_page(CPUX86State *env, uintptr_t ra)
{
    AddressSpace *as = cpu_get_address_space(env_cpu(env), 0);
    SnpGhcb g = { .gpa = env->cgs.ghcb_msr };
    CgsAccess acc = {
        .gpa = g.gpa,
        .gva = g.gpa,
        .shared = true,
        .type = CGS_TCG_ACCESS_CALL,
        .ra = ra,
    };

    if (!g.gpa) {
        /* no GHCB was set up: KVM goes back to the guest */
        cgs_unknown_call(env, "msr", 0);
        return false;
    }
    acc.state = cgs_state(g.gpa);
    if (!snp_is_shared(g.gpa) &&
        !cgs_violation(env, &acc, CGS_TCG_VIOLATION_KIND_SHARED_BUFFER,
                       "VMGEXIT with a GHCB that is not shared")) {
        return false;
    }
    address_space_read(as, g.gpa, MEMTXATTRS_UNSPECIFIED, g.page, GHCB_SIZE);
    g.code = ghcb_get(&g, GHCB_EXIT_CODE);
    g.info1 = ghcb_get(&g, GHCB_INFO1);
    g.info2 = ghcb_get(&g, GHCB_INFO2);
    memcpy(g.given, g.page + GHCB_VALID_BITMAP, sizeof(g.given));
    memset(g.page + GHCB_VALID_BITMAP, 0, sizeof(g.given));
    serve(env, &g);
    /* the event may have made the page private: then the answer is lost */
    if (snp_is_shared(g.gpa)) {
        address_space_write(as, g.gpa, MEMTXATTRS_UNSPECIFIED, g.page,
                            GHCB_SIZE);
    }
    return g.halt;
}

static uint64_t msr_cpuid(CPUX86State *env, uint64_t msr)
{
    uint32_t r[4];

    cpu_x86_cpuid(env, msr >> 32, 0, &r[0], &r[1], &r[2], &r[3]);
    return (uint64_t)r[extract64(msr, 30, 2)] << 32 | extract64(msr, 30, 2) << 30 |
           GHCB_MSR_CPUID_RESP;
}

/* Returns true if the vCPU is to halt. */
static bool vmgexit_msr(CPUX86State *env, uintptr_t ra)
{
    uint64_t msr = env->cgs.ghcb_msr;
    uint64_t data = msr & ~GHCB_MSR_INFO_MASK;
    unsigned info = msr & GHCB_MSR_INFO_MASK;

    cgs_count_call("msr", info);
    switch (info) {
    case GHCB_MSR_SEV_INFO_REQ:
        msr = deposit64(GHCB_MSR_SEV_INFO_RESP, 48, 16, GHCB_VERSION_MAX);
        msr = deposit64(msr, 32, 16, GHCB_VERSION_MIN);
        msr = deposit64(msr, 24, 8, snp_guest()->cbitpos);
        break;
    case GHCB_MSR_CPUID_REQ:
        msr = msr_cpuid(env, msr);
        break;
    case GHCB_MSR_AP_HOLD_REQ:
        env->cgs.ap_hold = CGS_AP_HOLD_MSR;
        env->cgs.ghcb_msr = GHCB_MSR_AP_HOLD_RESP;
        return true;
    case GHCB_MSR_PREF_GPA_REQ:
        /* none */
        msr = ~GHCB_MSR_INFO_MASK | GHCB_MSR_PREF_GPA_RESP;
        break;
    case GHCB_MSR_REG_GPA_REQ:
        env->cgs.ghcb_gpa = data;
        msr = data | GHCB_MSR_REG_GPA_RESP;
        break;
    case GHCB_MSR_PSC_REQ:
        msr = snp_psc_msr(env, msr, ra);
        break;
    case GHCB_MSR_RUN_VMPL_REQ:
        /* no other VMPL is offered: GHCBData[63:32] is an error */
        msr = 1ull << 32 | GHCB_MSR_RUN_VMPL_RESP;
        break;
    case GHCB_MSR_HV_FEATURES_REQ:
        msr = snp_hv_features() << 12 | GHCB_MSR_HV_FEATURES_RESP;
        break;
    case GHCB_MSR_TERM_REQ:
        terminate(env, extract64(msr, 12, 4), extract64(msr, 16, 8));
    default:
        /* KVM leaves the MSR as it is: not the answer that was asked for */
        cgs_unknown_call(env, "msr", info);
        return false;
    }
    env->cgs.ghcb_msr = msr;
    return false;
}

void helper_vmgexit(CPUX86State *env, uint32_t next_eip_addend)
{
    CPUState *cs = env_cpu(env);
    bool halt;

    halt = env->cgs.ghcb_msr & GHCB_MSR_INFO_MASK ? vmgexit_msr(env, GETPC())
                                                  : vmgexit_page(env, GETPC());
    if (halt) {
        env->eip += next_eip_addend;
        cs->halted = 1;
        cs->exception_index = EXCP_HLT;
        cpu_loop_exit(cs);
    }
}
