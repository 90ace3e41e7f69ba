/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Layouts of the GHCB, the VMSA and their neighbours
 *
 * GHCB: "SEV-ES Guest-Hypervisor Communication Block Standardization"
 * (AMD 56421).  VMSA: AMD64 Architecture Programmer's
 * Manual (AMD 24593), volume 2, appendix B, table B-4.
 */
#ifndef I386_CGS_SNP_GHCB_H
#define I386_CGS_SNP_GHCB_H

#include "qemu/bswap.h"

/* The GHCB MSR protocol: requests, GHCBInfo in bits 11:0 (section 2.3.1) */
#define GHCB_MSR_SEV_INFO_RESP      0x001
#define GHCB_MSR_SEV_INFO_REQ       0x002
#define GHCB_MSR_CPUID_REQ          0x004
#define GHCB_MSR_CPUID_RESP         0x005
#define GHCB_MSR_AP_HOLD_REQ        0x006
#define GHCB_MSR_AP_HOLD_RESP       0x007
#define GHCB_MSR_PREF_GPA_REQ       0x010
#define GHCB_MSR_PREF_GPA_RESP      0x011
#define GHCB_MSR_REG_GPA_REQ        0x012
#define GHCB_MSR_REG_GPA_RESP       0x013
#define GHCB_MSR_PSC_REQ            0x014
#define GHCB_MSR_PSC_RESP           0x015
#define GHCB_MSR_RUN_VMPL_REQ       0x016
#define GHCB_MSR_RUN_VMPL_RESP      0x017
#define GHCB_MSR_HV_FEATURES_REQ    0x080
#define GHCB_MSR_HV_FEATURES_RESP   0x081
#define GHCB_MSR_TERM_REQ           0x100
#define GHCB_MSR_INFO_MASK          0xfffull

/* Non-automatic exits that svm.h does not name */
#define NAE_READ_DR7                0x27
#define NAE_WRITE_DR7               0x37
#define NAE_MMIO_READ               0x80000001
#define NAE_MMIO_WRITE              0x80000002
#define NAE_NMI_COMPLETE            0x80000003
#define NAE_AP_RESET_HOLD           0x80000004
#define NAE_AP_JUMP_TABLE           0x80000005
#define NAE_PSC                     0x80000010
#define NAE_GUEST_REQUEST           0x80000011
#define NAE_EXT_GUEST_REQUEST       0x80000012
#define NAE_AP_CREATION             0x80000013
#define NAE_HV_DOORBELL             0x80000014
#define NAE_HV_IPI                  0x80000015
#define NAE_HV_TIMER                0x80000016
#define NAE_APIC_IDS                0x80000017
#define NAE_RUN_VMPL                0x80000018
#define NAE_HV_FEATURES             0x8000fffd
#define NAE_TERMINATE               0x8000fffe
#define NAE_UNSUPPORTED             0x8000ffff

/* SW_EXITINFO1 on return and, for malformed input, SW_EXITINFO2 */
#define GHCB_NO_ACTION              0
#define GHCB_EXCEPTION              1
#define GHCB_MALFORMED              2
#define GHCB_ERR_NOT_REGISTERED     1
#define GHCB_ERR_USAGE              2
#define GHCB_ERR_SCRATCH            3
#define GHCB_ERR_MISSING            4
#define GHCB_ERR_INPUT              5
#define GHCB_ERR_EVENT              6

/* SW_EXITINFO2 of an exception: EVENTINJ format */
#define GHCB_EVENT_UD               (0x80000300ull | 6)
#define GHCB_EVENT_GP               (0x80000b00ull | 13)

/* Hypervisor features */
#define GHCB_HV_SNP                 (1 << 0)
#define GHCB_HV_AP_CREATION         (1 << 1)
#define GHCB_HV_APIC_ID_LIST        (1 << 4)

/* Save area of the GHCB and of the VMSA */
#define SAVE_CPL                    0x0cb
#define SAVE_XSS                    0x140
#define SAVE_RAX                    0x1f8
#define SAVE_RCX                    0x308
#define SAVE_RDX                    0x310
#define SAVE_RBX                    0x318
#define GHCB_EXIT_CODE              0x390
#define GHCB_INFO1                  0x398
#define GHCB_INFO2                  0x3a0
#define GHCB_SCRATCH                0x3a8
#define SAVE_XCR0                   0x3e8
#define GHCB_VALID_BITMAP           0x3f0
#define GHCB_SHARED_BUFFER          0x800
#define GHCB_SHARED_BUFFER_END      0xff0
#define GHCB_PROTOCOL               0xffa
#define GHCB_USAGE                  0xffc
#define GHCB_SIZE                   0x1000

/* A copy of the guest's GHCB while one VMGEXIT is served */
typedef struct SnpGhcb {
    uint8_t page[GHCB_SIZE];
    uint64_t gpa;
    /* SW_EXITCODE, SW_EXITINFO1, SW_EXITINFO2 on entry */
    uint64_t code, info1, info2;
    /* the quadwords that the guest declared valid on entry */
    uint8_t given[16];
    /* what the vCPU does after the VMGEXIT */
    bool halt;
} SnpGhcb;

static inline uint64_t ghcb_get(const SnpGhcb *g, int off)
{
    return ldq_le_p(g->page + off);
}

static inline bool ghcb_given(const SnpGhcb *g, int off)
{
    return g->given[off / 64] & (1 << (off / 8 % 8));
}

static inline void ghcb_set(SnpGhcb *g, int off, uint64_t val)
{
    stq_le_p(g->page + off, val);
    g->page[GHCB_VALID_BITMAP + off / 64] |= 1 << (off / 8 % 8);
}

/* Answer with SW_EXITINFO1 (bits 31:0) and SW_EXITINFO2 */
static inline void ghcb_answer(SnpGhcb *g, uint64_t info1, uint64_t info2)
{
    ghcb_set(g, GHCB_INFO1, info1);
    ghcb_set(g, GHCB_INFO2, info2);
}

/* Page State Change: 8 bytes of header, 8 for each entry */
#define PSC_HEADER                  8
#define PSC_MAX_ENTRIES             253
#define PSC_OP_PRIVATE              1
#define PSC_OP_SHARED               2
#define PSC_OP_PSMASH               3
#define PSC_OP_UNSMASH              4
#define PSC_ERR_GENERIC             (0x100ull << 32)
#define PSC_ERR_HEADER              ((1ull << 32) | 1)
#define PSC_ERR_ENTRY               ((1ull << 32) | 2)

/* VMSA, where it differs from the GHCB */
#define VMSA_ES                     0x000
#define VMSA_CS                     0x010
#define VMSA_SS                     0x020
#define VMSA_DS                     0x030
#define VMSA_FS                     0x040
#define VMSA_GS                     0x050
#define VMSA_GDTR                   0x060
#define VMSA_LDTR                   0x070
#define VMSA_IDTR                   0x080
#define VMSA_TR                     0x090
#define VMSA_VMPL                   0x0ca
#define VMSA_EFER                   0x0d0
#define VMSA_CR4                    0x148
#define VMSA_CR3                    0x150
#define VMSA_CR0                    0x158
#define VMSA_DR7                    0x160
#define VMSA_DR6                    0x168
#define VMSA_RFLAGS                 0x170
#define VMSA_RIP                    0x178
#define VMSA_RSP                    0x1d8
#define VMSA_STAR                   0x200
#define VMSA_LSTAR                  0x208
#define VMSA_CSTAR                  0x210
#define VMSA_SFMASK                 0x218
#define VMSA_KERNEL_GS_BASE         0x220
#define VMSA_SYSENTER_CS            0x228
#define VMSA_SYSENTER_ESP           0x230
#define VMSA_SYSENTER_EIP           0x238
#define VMSA_CR2                    0x240
#define VMSA_G_PAT                  0x268
#define VMSA_PKRU                   0x2e8
#define VMSA_TSC_AUX                0x2ec
#define VMSA_RBP                    0x328
#define VMSA_RSI                    0x330
#define VMSA_RDI                    0x338
#define VMSA_R8                     0x340
#define VMSA_SEV_FEATURES           0x3b0
#define VMSA_MXCSR                  0x408
#define VMSA_X87_FTW                0x40c
#define VMSA_X87_FSW                0x40e
#define VMSA_X87_FCW                0x410

#define SEV_FEATURE_SNP_ACTIVE      1

#endif
