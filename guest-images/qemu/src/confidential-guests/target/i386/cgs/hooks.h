/*
 * Emulated confidential guests for TCG: what the rest of QEMU calls
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef I386_CGS_HOOKS_H
#define I386_CGS_HOOKS_H

#include "exec/hwaddr.h"
#include "hw/core/cpu.h"
#include "qemu/typedefs.h"

/* A vCPU's page table bit that tells private from shared, 0 without a guest. */
extern uint64_t cgs_addr_bit;

static inline bool cgs_enabled(void)
{
    return cgs_addr_bit != 0;
}

struct SevKernelLoaderContext;

/* intercepts=on: points of interception are to call cgs_intercept() */
extern bool cgs_intercepts;
/* TDCALL exists */
extern bool cgs_is_tdx;
/* the SNP instructions and MSRs exist */
extern bool cgs_is_snp;

/* hw/i386 */
bool cgs_load_firmware(const char *filename, void *ptr, size_t size);
/* What -kernel, -initrd and -append gave, for a launch that measures it */
void cgs_kernel_loader(const struct SevKernelLoaderContext *ctx, Error **errp);
void cgs_setup_dma(PCIBus *bus);
AddressSpace *cgs_dma_as(void);     /* what fw_cfg reaches */

/* target/i386/cpu.c */
void cgs_after_reset(X86CPU *cpu);
void cgs_cpuid(CPUX86State *env, uint32_t index, uint32_t count,
               uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx);

/* INIT and SIPI of a vCPU; true if the platform has done all of it */
bool cgs_vcpu_init(X86CPU *cpu);
bool cgs_vcpu_sipi(X86CPU *cpu);
/* What may wake a vCPU that waits for its next start (env->cgs.ap_hold) */
int cgs_held_interrupt(CPUX86State *env, int interrupt_request);

/* target/i386/tcg: SVM's points of interception, with SVM's exit code */
void cgs_intercept(CPUX86State *env, uint32_t exit_code, uint64_t param,
                   uintptr_t ra);

/* target/i386/machine.c */
extern const VMStateDescription vmstate_cgs_vcpu;

/* target/i386/helper.c: poison what a debugger must not see */
void cgs_debug_access(hwaddr gpa);

/*
 * target/i386/tcg/system/excp_helper.c. *paddr comes with the platform's
 * address bit and goes without. False if the TLB may not be filled: only
 * with probe; otherwise an exception was raised, or the guest is stopped.
 */
bool cgs_tlb_fill(CPUX86State *env, hwaddr *paddr, int *prot, vaddr addr,
                  MMUAccessType access_type, int mmu_idx, bool probe,
                  uintptr_t ra);
/* Translate without a check of the page's state; raises #PF */
hwaddr cgs_translate(CPUX86State *env, vaddr addr, bool *bit, uintptr_t ra);
/* A page table's address: checked, and without the platform's address bit. */
hwaddr cgs_walk(CPUX86State *env, hwaddr addr, uintptr_t ra);

#endif
