/*
 * Per-vCPU state of an emulated confidential guest; part of CPUX86State
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef I386_CGS_VCPU_H
#define I386_CGS_VCPU_H

/* SNP: why a vCPU waits for its next start */
typedef enum CgsApHold {
    CGS_AP_HOLD_NONE,
    CGS_AP_HOLD_MSR,            /* AP Reset Hold by the GHCB MSR protocol */
    CGS_AP_HOLD_NAE,            /* AP Reset Hold by its NAE event */
    CGS_AP_HOLD_DESTROYED,      /* only AP Creation starts it again */
} CgsApHold;

/* Cleared by a CPU reset. Anything added here goes into cgs/vmstate.c too. */
typedef struct CgsVcpu {
    /* TDX: virtualization exception information area */
    struct {
        uint64_t valid, reason, qualification, gla, gpa, length;
        /* CPUID instructions raise #VE: supervisor, user (TDG.VP.CPUIDVE.SET) */
        uint64_t cpuid_ve;
    } ve;
    /* TDX: TDVMCALL<HLT> wakes up whatever RFLAGS.IF says */
    bool tdx_halted;

    /* SNP: the GHCB MSR, and the GHCB that the guest registered */
    uint64_t ghcb_msr;
    uint64_t ghcb_gpa;
    /* SNP: the VMSA page in use, the one to load at INIT; bit 0: there is one */
    uint64_t vmsa_gpa;
    uint64_t vmsa_pending;
    uint8_t ap_hold;            /* CgsApHold */
    bool started;               /* SIPI has no effect on the registers */
    bool in_vmgexit;            /* not saved: an instruction run for the guest */
} CgsVcpu;

#endif
