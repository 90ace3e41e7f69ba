/*
 * Emulated Intel TDX guest for TCG: TDCALL
 *
 * As td_call() in src/td_dispatcher/tdx_td_dispatcher.c of the TDX module 1.5.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "hw/boards.h"
#include "cgs/tdx.h"

enum {
    VP_VMCALL = 0, VP_INFO = 1, MR_RTMR_EXTEND = 2, VP_VEINFO_GET = 3,
    MR_REPORT = 4, VP_CPUIDVE_SET = 5, MEM_PAGE_ACCEPT = 6, VM_RD = 7,
    VM_WR = 8, VP_RD = 9, VP_WR = 10, SYS_RD = 11,
};

static uint64_t vp_info(CPUX86State *env)
{
    TdxTcgGuest *td = tdx_guest();

    env->regs[R_ECX] = td->gpaw;
    env->regs[R_EDX] = td->attributes;
    env->regs[8] = current_machine->smp.cpus |
                   (uint64_t)current_machine->smp.max_cpus << 32;
    env->regs[9] = env_cpu(env)->cpu_index;
    env->regs[10] = 1;          /* TDG.SYS.RD is there */
    env->regs[11] = 0;
    return TDX_SUCCESS;
}

static uint64_t cpuidve_set(CPUX86State *env)
{
    if (env->regs[R_ECX] & ~3ull) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    env->cgs.ve.cpuid_ve = env->regs[R_ECX];
    return TDX_SUCCESS;
}

void helper_tdcall(CPUX86State *env, int insn_len)
{
    uint64_t rax = env->regs[R_EAX];
    unsigned leaf = rax & 0xffff, version = rax >> 16 & 0xff;
    uint64_t status;

    cgs_count_call("tdcall", leaf);
    if (rax >> 24 || (version && leaf != VM_RD)) {
        env->regs[R_EAX] = TDX_OPERAND_INVALID | TDX_RAX;
        return;
    }
    switch (leaf) {
    case VP_VMCALL:
        /* RSP, RAX and RCX cannot be given to the host */
        if (env->regs[R_ECX] >> 32 || env->regs[R_ECX] & 0x13) {
            status = TDX_OPERAND_INVALID | TDX_RCX;
            break;
        }
        env->regs[10] = tdx_vmcall(env, insn_len);
        status = TDX_SUCCESS;
        break;
    case VP_INFO:
        status = vp_info(env);
        break;
    case MR_RTMR_EXTEND:
        status = tdx_rtmr_extend(env);
        break;
    case VP_VEINFO_GET:
        status = tdx_veinfo_get(env);
        break;
    case MR_REPORT:
        status = tdx_mr_report(env);
        break;
    case VP_CPUIDVE_SET:
        status = cpuidve_set(env);
        break;
    case MEM_PAGE_ACCEPT:
        status = tdx_page_accept(env);
        break;
    case VM_RD:
        status = tdx_vm_rd(env, version);
        break;
    case VM_WR:
        status = tdx_vm_wr(env);
        break;
    case VP_RD:
        status = tdx_vp_rd(env);
        break;
    case VP_WR:
        status = tdx_vp_wr(env);
        break;
    case SYS_RD:
        status = tdx_sys_rd(env);
        break;
    default:
        cgs_unknown_call(env, "tdcall", leaf);
        status = TDX_OPERAND_INVALID | TDX_RAX;
    }
    env->regs[R_EAX] = status;
}
