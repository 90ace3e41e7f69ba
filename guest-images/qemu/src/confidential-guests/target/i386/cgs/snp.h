/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated AMD SEV-SNP guest for TCG: what its modules share
 *
 * No encryption and no attestation: a strict RMP, the instructions, the launch
 * state and the hypervisor's side of the GHCB protocol, version 2.
 */
#ifndef I386_CGS_SNP_H
#define I386_CGS_SNP_H

#include "qemu/units.h"
#include "cgs/cgs.h"
#include "cgs/snp-ghcb.h"

#define TYPE_SNP_TCG_GUEST "snp-tcg-guest"
OBJECT_DECLARE_SIMPLE_TYPE(SnpTcgGuest, SNP_TCG_GUEST)

/* The platform's bits in a page's state byte */
#define SNP_RMP_4K      0x10    /* the 2 MiB around are 512 RMP entries */
#define SNP_VMSA        0x20    /* the page holds a vCPU's register state */
#define SNP_USED        0x40    /* was validated since the launch */

#define SNP_2M_PAGES    512

/* In a vCPU's vmsa_gpa, next to the address */
#define SNP_VMSA_RUNS   1

#define EXCP1D_VC       29
/* #VC error codes are VMEXIT codes (APM volume 2, 15.35.5) */
#define VC_NPF          0x400
#define VC_NOT_VALIDATED 0x404

#define MSR_AMD64_SEV_ES_GHCB   0xc0010130
#define MSR_AMD64_SEV           0xc0010131

/* The firmware's description of the pages that the launch measures */
typedef struct SnpMetaDesc {
    uint32_t base, len, type;
} SnpMetaDesc;

struct SnpTcgGuest {
    CgsTcgGuest parent_obj;

    /* properties; see qapi/cgs-tcg.json */
    uint32_t cbitpos;
    bool coherency_sfw_no;
    bool apic_id_list;
    bool kernel_hashes;
    uint16_t psc_entries;

    /* from the firmware */
    SnpMetaDesc *meta;
    uint32_t nr_meta;
    uint32_t ap_reset_addr;

    /* of -kernel, for the firmware */
    uint8_t *hashes;
    uint32_t hashes_gpa, hashes_size;

    /* since the launch; saved and restored */
    uint64_t ap_jump_table;
};

static inline SnpTcgGuest *snp_guest(void)
{
    return (SnpTcgGuest *)cgs_guest;
}

/* The machine's ROMs and video memory: no RMP entries in this emulation */
static inline bool snp_in_low_hole(hwaddr gpa)
{
    return gpa >= 0xa0000 && gpa < 1 * MiB;
}

/* May the hypervisor use a page? With check=off nothing is converted for it. */
static inline bool snp_is_shared(hwaddr gpa)
{
    return !cgs_guest->check || cgs_state(gpa) == CGS_TCG_STATE_SHARED;
}

/* snp-launch.c */
void snp_firmware(CgsTcgGuest *g);
void snp_launch(CgsTcgGuest *g);
/* What the hypervisor and the CPUID page say beyond the CPU model. */
void snp_cpuid(CPUX86State *env, uint32_t index, uint32_t count,
               uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx);

/* snp-hashes.c */
void snp_kernel_loader(CgsTcgGuest *g,
                       const struct SevKernelLoaderContext *ctx, Error **errp);

/* snp-rmp.c */
/* The host splits the 2 MiB RMP entry that covers a page (PSMASH). */
void snp_psmash(hwaddr gpa);

/* snp-psc.c */
/* A request by the MSR protocol; returns the GHCB MSR's new value. */
uint64_t snp_psc_msr(CPUX86State *env, uint64_t msr, uintptr_t ra);
void snp_nae_psc(CPUX86State *env, SnpGhcb *g);

/* snp-ghcb.c */
/* The GHCB's buffer, if the guest gave it and it holds len bytes. */
uint8_t *snp_scratch(SnpGhcb *g, size_t len);

/* snp-nae.c: exits that run an instruction or access for the guest */
void snp_nae_cpuid(CPUX86State *env, SnpGhcb *g);
void snp_nae_msr(CPUX86State *env, SnpGhcb *g);
void snp_nae_ioio(CPUX86State *env, SnpGhcb *g);
void snp_nae_mmio(CPUX86State *env, SnpGhcb *g);
void snp_nae_tsc(CPUX86State *env, SnpGhcb *g);

/* snp-ap.c */
void snp_nae_ap_creation(CPUX86State *env, SnpGhcb *g);
void snp_nae_apic_ids(CPUX86State *env, SnpGhcb *g);
void snp_reset_vcpu(X86CPU *cpu);
/* INIT and SIPI; true if nothing is left to do. */
bool snp_vcpu_init(X86CPU *cpu);
bool snp_vcpu_sipi(X86CPU *cpu);
/* Does a vCPU that may run have its registers in this page? */
bool snp_vmsa_in_use(hwaddr gpa);
uint64_t snp_hv_features(void);

/* snp-vc.c */
bool snp_inject(CPUX86State *env, const CgsAccess *acc,
                CgsTcgViolationKind kind, const char **detail);
bool snp_tolerate(CPUX86State *env, const CgsAccess *acc);
bool snp_forbid(CPUX86State *env, const CgsAccess *acc, uint8_t byte,
                CgsTcgViolationKind *kind);
void snp_intercept(CPUX86State *env, uint32_t exit_code, uint64_t param,
                   uintptr_t ra);
void snp_mmio(CPUX86State *env, const CgsAccess *acc);

#endif
