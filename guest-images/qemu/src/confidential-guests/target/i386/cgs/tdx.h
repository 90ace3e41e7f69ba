/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated Intel TDX guest for TCG: between the module's own files
 *
 * Reference is the Intel TDX module 1.5 (its source, github.com/intel/tdx-module,
 * branch tdx_1.5) and the Guest-Host-Communication Interface (GHCI); see
 * docs/tdx-tcg.md of the harness for each function.
 */
#ifndef I386_CGS_TDX_H
#define I386_CGS_TDX_H

#include "cgs/cgs.h"

#define TYPE_TDX_TCG_GUEST "tdx-tcg-guest"
OBJECT_DECLARE_SIMPLE_TYPE(TdxTcgGuest, TDX_TCG_GUEST)

/* include/auto_gen/tdx_error_codes_defs.h; the operand goes into bits 31:0 */
#define TDX_SUCCESS                         0ull
#define TDX_OPERAND_INVALID                 0xc000010000000000ull
#define TDX_OPERAND_BUSY                    0x8000020000000000ull
#define TDX_NO_VALID_VE_INFO                0xc000070400000000ull
#define TDX_PAGE_ALREADY_ACCEPTED           0x00000b0a00000000ull
#define TDX_PAGE_SIZE_MISMATCH              0xc0000b0b00000000ull
#define TDX_METADATA_FIELD_ID_INCORRECT     0xc0000c0000000000ull
#define TDX_METADATA_FIELD_NOT_WRITABLE     0xc0000c0100000000ull
#define TDX_METADATA_FIELD_VALUE_NOT_VALID  0xc0000c0300000000ull
#define TDX_METADATA_FIRST_FIELD            0x00000c0800000000ull

/* Operands in a status code */
enum { TDX_RAX = 0, TDX_RCX = 1, TDX_RDX = 2, TDX_R8 = 8 };

/* TD attributes */
#define TDX_ATTR_SEPT_VE_DISABLE    BIT_ULL(28)

/* Platform's bit of a page's state byte: in a 2 MiB region mapped by 4 KiB */
#define TDX_SMALL                   0x10

#define TDX_HASH_BYTES              48      /* SHA-384 */
#define TDX_RTMRS                   4

/* Basic exit reasons of VMX, as #VE gives them */
enum {
    TDX_EXIT_CPUID = 10, TDX_EXIT_HLT = 12, TDX_EXIT_IO = 30,
    TDX_EXIT_RDMSR = 31, TDX_EXIT_WRMSR = 32, TDX_EXIT_MWAIT = 36,
    TDX_EXIT_MONITOR = 39, TDX_EXIT_EPT_VIOLATION = 48, TDX_EXIT_WBINVD = 54,
};

struct TdxTcgGuest {
    CgsTcgGuest parent_obj;

    /* properties */
    uint32_t gpaw;
    uint64_t attributes;
    uint64_t mapgpa_retry_pages;
    bool flexible_pending_ve;

    uint64_t hob_addr;
    bool measured;
    uint8_t mrtd[TDX_HASH_BYTES];

    /* saved and restored; reset at each launch */
    uint64_t pending_ve_disable;            /* TD_CTLS bit 0 */
    uint64_t notify_enables;
    uint8_t rtmr[TDX_RTMRS][TDX_HASH_BYTES];
};

static inline TdxTcgGuest *tdx_guest(void)
{
    return TDX_TCG_GUEST(cgs_guest);
}

/* tdx-launch.c */
void tdx_launch(CgsTcgGuest *g);
void tdx_firmware(CgsTcgGuest *g);

/* tdx-mem.c */
uint64_t tdx_page_accept(CPUX86State *env);
/* TDG.VP.VMCALL<MapGPA>; returns R10 */
uint64_t tdx_map_gpa(CPUX86State *env);
/* All pages of a 2 MiB region that is not mapped as one become small. */
void tdx_demote(hwaddr gpa);
/* A buffer named by GPA; false if the GPA is not valid. */
bool tdx_check_buffer(CPUX86State *env, uint64_t gpa, bool private_only,
                      CgsTcgAccess type);

/* tdx-vmcall.c: returns R10 */
uint64_t tdx_vmcall(CPUX86State *env, int insn_len);

/* tdx-fields.c: TDG.VM.RD, TDG.VM.WR, TDG.VP.RD, TDG.VP.WR, TDG.SYS.RD */
uint64_t tdx_vm_rd(CPUX86State *env, unsigned version);
uint64_t tdx_vm_wr(CPUX86State *env);
uint64_t tdx_vp_rd(CPUX86State *env);
uint64_t tdx_vp_wr(CPUX86State *env);
uint64_t tdx_sys_rd(CPUX86State *env);

/* tdx-report.c */
uint64_t tdx_rtmr_extend(CPUX86State *env);
uint64_t tdx_mr_report(CPUX86State *env);
uint64_t tdx_xfam(CPUX86State *env);

/* tdx-ve.c */
G_NORETURN void tdx_raise_ve(CPUX86State *env, uint32_t reason,
                             uint64_t qualification, uint64_t gla, uint64_t gpa,
                             uint64_t length, uintptr_t ra);
uint64_t tdx_veinfo_get(CPUX86State *env);
bool tdx_inject(CPUX86State *env, const CgsAccess *acc,
                CgsTcgViolationKind kind, const char **detail);
void tdx_mmio(CPUX86State *env, const CgsAccess *acc);
void tdx_intercept(CPUX86State *env, uint32_t exit_code, uint64_t param,
                   uintptr_t ra);

#endif
