/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated Intel TDX guest for TCG: metadata fields
 *
 * Identifiers, and what a guest may read and write: tdr_tdcs_fields_lookup.c,
 * tdvps_fields_lookup.c and global_sys_fields_lookup.c of the TDX module 1.5.
 * A field is known by its class (bits 63:56) and code (bits 23:0); size and
 * context are ignored on input (tdg_vm_rd_wr.c).
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "hw/boards.h"
#include "cgs/tdx.h"

#define MD(class, code) ((uint64_t)(class) << 56 | (code))
#define MD_MASK         MD(0xff, 0xffffff)
#define NO_FIELD           UINT64_MAX

#define CONFIG_GPAW                 BIT_ULL(0)
#define CONFIG_FLEXIBLE_PENDING_VE  BIT_ULL(1)

enum { CLASS_TD = 0x90, CLASS_TD_EXEC = 0x11, CLASS_TD_EXEC_EXT = 0x91,
       CLASS_TD_MR = 0x13, CLASS_VP = 0xa0, CLASS_SYS = 0x08,
       CLASS_SYS_INFO = 0x0a };

static uint64_t hash_word(const uint8_t *hash, unsigned index)
{
    return ldq_le_p(hash + 8 * index);
}

static bool read_td(CPUX86State *env, uint64_t field, uint64_t *value)
{
    TdxTcgGuest *td = tdx_guest();
    unsigned code = field & 0xffffff;

    switch (field & MD_MASK) {
    case MD(CLASS_TD, 1):                    /* NUM_VCPUS */
        *value = current_machine->smp.cpus;
        return true;
    case MD(CLASS_TD, 5):                    /* NUM_L2_VMS */
        *value = 0;
        return true;
    case MD(CLASS_TD_EXEC, 0):               /* ATTRIBUTES */
        *value = td->attributes;
        return true;
    case MD(CLASS_TD_EXEC, 1):               /* XFAM */
        *value = tdx_xfam(env);
        return true;
    case MD(CLASS_TD_EXEC, 2):               /* MAX_VCPUS */
        *value = current_machine->smp.max_cpus;
        return true;
    case MD(CLASS_TD_EXEC, 3):               /* GPAW */
        *value = td->gpaw == 52;
        return true;
    case MD(CLASS_TD_EXEC, 0x0c):            /* TSC_FREQUENCY, 25 MHz */
        *value = 40;            /* 1 GHz, TCG's time stamp counter */
        return true;
    case MD(CLASS_TD_EXEC_EXT, 0x10):        /* NOTIFY_ENABLES */
        *value = td->notify_enables;
        return true;
    case MD(CLASS_TD_EXEC, 0x16):            /* CONFIG_FLAGS */
        *value = (td->gpaw == 52 ? CONFIG_GPAW : 0) |
                 (td->flexible_pending_ve ? CONFIG_FLEXIBLE_PENDING_VE : 0);
        return true;
    case MD(CLASS_TD_EXEC, 0x17):            /* TD_CTLS */
        *value = td->pending_ve_disable;
        return true;
    }
    if (field >> 56 == CLASS_TD_MR) {
        if (code < 6) {                         /* MRTD */
            *value = hash_word(td->mrtd, code);
            return true;
        }
        if (code >= 0x10 && code < 0x28 && (code & 7) < 6) {
            *value = 0;         /* MRCONFIGID, MROWNER, MROWNERCONFIG */
            return true;
        }
        if (code >= 0x40 && code < 0x40 + 8 * TDX_RTMRS && (code & 7) < 6) {
            *value = hash_word(td->rtmr[(code - 0x40) / 8], code & 7);
            return true;
        }
    }
    return false;
}

uint64_t tdx_vm_rd(CPUX86State *env, unsigned version)
{
    uint64_t field = env->regs[R_EDX], value;

    if (version) {
        env->regs[R_EDX] = NO_FIELD;    /* no walk over the fields */
    }
    env->regs[8] = 0;
    if (version > 1) {
        return TDX_OPERAND_INVALID | TDX_RAX;
    }
    if (env->regs[R_ECX]) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (!read_td(env, field, &value)) {
        cgs_unknown_call(env, "vm.rd", field);
        return TDX_METADATA_FIELD_ID_INCORRECT;
    }
    env->regs[8] = value;
    return TDX_SUCCESS;
}

uint64_t tdx_vm_wr(CPUX86State *env)
{
    TdxTcgGuest *td = tdx_guest();
    uint64_t field = env->regs[R_EDX], mask = env->regs[9] & 1;
    uint64_t old, new;

    if (env->regs[R_ECX]) {
        env->regs[8] = 0;
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (!read_td(env, field, &old)) {
        env->regs[8] = 0;
        cgs_unknown_call(env, "vm.wr", field);
        return TDX_METADATA_FIELD_ID_INCORRECT;
    }
    new = (old & ~mask) | (env->regs[8] & mask);
    env->regs[8] = 0;
    switch (field & MD_MASK) {
    case MD(CLASS_TD_EXEC_EXT, 0x10):
        td->notify_enables = new;
        break;
    case MD(CLASS_TD_EXEC, 0x17):
        if (new != old && !td->flexible_pending_ve) {
            return TDX_METADATA_FIELD_VALUE_NOT_VALID;
        }
        td->pending_ve_disable = new;
        break;
    default:
        return TDX_METADATA_FIELD_NOT_WRITABLE;
    }
    env->regs[8] = old;
    return TDX_SUCCESS;
}

uint64_t tdx_vp_rd(CPUX86State *env)
{
    uint64_t field = env->regs[R_EDX];

    env->regs[8] = 0;
    switch (field & MD_MASK) {
    case MD(CLASS_VP, 2):                    /* VCPU_INDEX */
        env->regs[8] = env_cpu(env)->cpu_index;
        return TDX_SUCCESS;
    case MD(CLASS_VP, 7):                    /* CPUID_SUPERVISOR_VE */
        env->regs[8] = env->cgs.ve.cpuid_ve & 1;
        return TDX_SUCCESS;
    case MD(CLASS_VP, 8):                    /* CPUID_USER_VE */
        env->regs[8] = env->cgs.ve.cpuid_ve >> 1 & 1;
        return TDX_SUCCESS;
    }
    cgs_unknown_call(env, "vp.rd", field);
    return TDX_METADATA_FIELD_ID_INCORRECT;
}

uint64_t tdx_vp_wr(CPUX86State *env)
{
    uint64_t field = env->regs[R_EDX], value = env->regs[8] & env->regs[9] & 1;
    unsigned bit;

    env->regs[8] = 0;
    switch (field & MD_MASK) {
    case MD(CLASS_VP, 7):
        bit = 0;
        break;
    case MD(CLASS_VP, 8):
        bit = 1;
        break;
    case MD(CLASS_VP, 2):
        return TDX_METADATA_FIELD_NOT_WRITABLE;
    default:
        cgs_unknown_call(env, "vp.wr", field);
        return TDX_METADATA_FIELD_ID_INCORRECT;
    }
    env->regs[8] = env->cgs.ve.cpuid_ve >> bit & 1;
    if (env->regs[9] & 1) {
        env->cgs.ve.cpuid_ve = deposit64(env->cgs.ve.cpuid_ve, bit, 1, value);
    }
    return TDX_SUCCESS;
}

uint64_t tdx_sys_rd(CPUX86State *env)
{
    uint64_t field = env->regs[R_EDX];

    env->regs[R_EDX] = NO_FIELD;
    env->regs[8] = 0;
    switch (field & MD_MASK) {
    case MD(CLASS_SYS, 0):                   /* VENDOR_ID */
        env->regs[8] = 0x8086;
        return TDX_SUCCESS;
    case MD(CLASS_SYS, 3):                   /* MINOR_VERSION */
        env->regs[8] = 5;
        return TDX_SUCCESS;
    case MD(CLASS_SYS, 4):                   /* MAJOR_VERSION */
        env->regs[8] = 1;
        return TDX_SUCCESS;
    case MD(CLASS_SYS_INFO, 0):              /* SYS_ATTRIBUTES */
        env->regs[8] = 0;
        return TDX_SUCCESS;
    case MD(CLASS_SYS_INFO, 1):              /* NUM_TDX_FEATURES */
        env->regs[8] = 1;
        return TDX_SUCCESS;
    case MD(CLASS_SYS_INFO, 8):              /* TDX_FEATURES0 */
        env->regs[8] = 0;
        return TDX_SUCCESS;
    }
    cgs_unknown_call(env, "sys.rd", field);
    return TDX_METADATA_FIELD_ID_INCORRECT;
}
