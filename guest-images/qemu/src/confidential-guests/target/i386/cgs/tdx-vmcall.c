/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated Intel TDX guest for TCG: TDG.VP.VMCALL, what the host does
 *
 * Intel's Guest-Host-Communication Interface (GHCI) 1.5, chapter 3; where it
 * leaves a choice, as KVM and QEMU for TDX hosts do (arch/x86/kvm/vmx/tdx.c of
 * Linux 6.17).
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "exec/address-spaces.h"
#include "exec/exec-all.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "cgs/tdx.h"

enum {
    VMCALL_CPUID = 10, VMCALL_HLT = 12, VMCALL_IO = 30, VMCALL_RDMSR = 31,
    VMCALL_WRMSR = 32, VMCALL_MMIO = 48, VMCALL_INFO = 0x10000,
    VMCALL_MAP_GPA = 0x10001, VMCALL_GET_QUOTE = 0x10002,
    VMCALL_FATAL_ERROR = 0x10003, VMCALL_EVENT_NOTIFY = 0x10004,
};

#define SUCCESS             0ull
#define INVALID_OPERAND     0x8000000000000000ull
#define ALIGN_ERROR         0x8000000000000002ull
#define UNSUPPORTED         0x8000000000000003ull
/* GetQuote: status in the buffer */
#define QUOTE_UNAVAILABLE   0x8000000000000001ull
#define KVM_ENOSYS          1000

static uint64_t do_cpuid(CPUX86State *env)
{
    uint32_t r[4];

    cpu_x86_cpuid(env, env->regs[12], env->regs[13], &r[0], &r[1], &r[2],
                  &r[3]);
    for (int i = 0; i < 4; i++) {
        env->regs[12 + i] = r[i];
    }
    return SUCCESS;
}

/*
 * R12: the guest waits with interrupts off for good. Otherwise any interrupt
 * wakes the vCPU, though RFLAGS.IF is off: Linux cannot turn it on before
 * (tdx_safe_halt() in arch/x86/coco/tdx/tdx.c).
 */
static G_NORETURN void do_hlt(CPUX86State *env, int insn_len)
{
    CPUState *cs = env_cpu(env);

    env->regs[10] = SUCCESS;
    env->regs[R_EAX] = TDX_SUCCESS;
    env->eip += insn_len;
    env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    env->cgs.tdx_halted = !(env->regs[12] & 1);
    cs->halted = 1;
    cs->exception_index = EXCP_HLT;
    cpu_loop_exit(cs);
}

static uint64_t do_io(CPUX86State *env)
{
    uint32_t port = env->regs[14] & 0xffff, value = env->regs[15];
    bool write = env->regs[13] & 1;

    switch (env->regs[12]) {
    case 1:
        if (write) {
            helper_outb(env, port, value);
        } else {
            env->regs[11] = (uint8_t)helper_inb(env, port);
        }
        return SUCCESS;
    case 2:
        if (write) {
            helper_outw(env, port, value);
        } else {
            env->regs[11] = (uint16_t)helper_inw(env, port);
        }
        return SUCCESS;
    case 4:
        if (write) {
            helper_outl(env, port, value);
        } else {
            env->regs[11] = (uint32_t)helper_inl(env, port);
        }
        return SUCCESS;
    default:
        return INVALID_OPERAND;
    }
}

static uint64_t do_msr(CPUX86State *env, bool write)
{
    target_ulong a = env->regs[R_EAX], c = env->regs[R_ECX],
                 d = env->regs[R_EDX];

    env->regs[R_ECX] = (uint32_t)env->regs[12];
    env->cgs.in_vmgexit = true;
    if (write) {
        env->regs[R_EAX] = (uint32_t)env->regs[13];
        env->regs[R_EDX] = env->regs[13] >> 32;
        helper_wrmsr(env);
    } else {
        helper_rdmsr(env);
        env->regs[11] = (uint32_t)env->regs[R_EAX] |
                        (uint64_t)env->regs[R_EDX] << 32;
    }
    env->cgs.in_vmgexit = false;
    env->regs[R_EAX] = a;
    env->regs[R_ECX] = c;
    env->regs[R_EDX] = d;
    return SUCCESS;
}

/* Only what is not memory: the host cannot reach private pages. */
static uint64_t do_mmio(CPUX86State *env)
{
    uint64_t size = env->regs[12], gpa = env->regs[14] & ~cgs_addr_bit;
    uint8_t value[8] = { };

    if ((size != 1 && size != 2 && size != 4 && size != 8) ||
        !(env->regs[14] & cgs_addr_bit) || cgs_is_ram(gpa)) {
        return INVALID_OPERAND;
    }
    if (env->regs[13] & 1) {
        stq_le_p(value, env->regs[15]);
        address_space_write(&address_space_memory, gpa, cpu_get_mem_attrs(env),
                            value, size);
    } else {
        address_space_read(&address_space_memory, gpa, cpu_get_mem_attrs(env),
                           value, size);
        env->regs[11] = ldq_le_p(value);
    }
    return SUCCESS;
}

static uint64_t get_info(CPUX86State *env)
{
    /* leaf 0: all of GHCI 1.0 is there; leaf 1: nothing beyond it */
    env->regs[11] = env->regs[12] = env->regs[13] = env->regs[14] = 0;
    return SUCCESS;
}

/* There is no quoting service: the request is taken and answered with that. */
static uint64_t get_quote(CPUX86State *env)
{
    uint64_t gpa = env->regs[12], size = env->regs[13];
    uint8_t header[16];

    if ((gpa | size) & 4095) {
        return ALIGN_ERROR;
    }
    if (!size || !(gpa & cgs_addr_bit) || gpa + size < gpa) {
        return INVALID_OPERAND;
    }
    for (uint64_t i = 0; i < size; i += 4096) {
        if (!cgs_is_ram((gpa + i) & ~cgs_addr_bit) ||
            !tdx_check_buffer(env, gpa + i, false, CGS_TCG_ACCESS_CALL)) {
            return INVALID_OPERAND;
        }
    }
    gpa &= ~cgs_addr_bit;
    /* u64 version, u64 status, u32 input length, u32 output length */
    address_space_read(&address_space_memory, gpa, MEMTXATTRS_UNSPECIFIED,
                       header, sizeof(header));
    if (ldq_le_p(header) != 1) {
        return INVALID_OPERAND;
    }
    stq_le_p(header + 8, QUOTE_UNAVAILABLE);
    address_space_write(&address_space_memory, gpa, MEMTXATTRS_UNSPECIFIED,
                        header, sizeof(header));
    address_space_set(&address_space_memory, gpa + 20, 0, 4,
                      MEMTXATTRS_UNSPECIFIED);
    return SUCCESS;
}

static G_NORETURN void fatal_error(CPUX86State *env)
{
    static const int order[8] = { 14, 15, R_EBX, R_EDI, R_ESI, 8, 9, R_EDX };
    uint64_t code = env->regs[12];
    char message[65] = "";

    for (int i = 0; i < 8; i++) {
        stq_le_p(message + 8 * i, env->regs[order[i]]);
    }
    /* R12 bit 63: R13 has the GPA of more */
    cgs_fatal(env, code & 0xffffffff, message, code >> 63, env->regs[13]);
}

uint64_t tdx_vmcall(CPUX86State *env, int insn_len)
{
    uint64_t function = env->regs[11];

    if (env->regs[10]) {
        /* a hypercall of the host's own: KVM without any */
        cgs_count_call("kvm", env->regs[10]);
        return -KVM_ENOSYS;
    }
    cgs_count_call("vmcall", function);
    switch (function) {
    case VMCALL_CPUID:
        return do_cpuid(env);
    case VMCALL_HLT:
        do_hlt(env, insn_len);
    case VMCALL_IO:
        return do_io(env);
    case VMCALL_RDMSR:
        return do_msr(env, false);
    case VMCALL_WRMSR:
        return do_msr(env, true);
    case VMCALL_MMIO:
        return do_mmio(env);
    case VMCALL_INFO:
        return get_info(env);
    case VMCALL_MAP_GPA:
        return tdx_map_gpa(env);
    case VMCALL_GET_QUOTE:
        return get_quote(env);
    case VMCALL_FATAL_ERROR:
        fatal_error(env);
    case VMCALL_EVENT_NOTIFY:
        /* taken; there is no asynchronous quote to notify of */
        return env->regs[12] >= 32 && env->regs[12] <= 255 ? SUCCESS
                                                           : INVALID_OPERAND;
    default:
        cgs_unknown_call(env, "vmcall", function);
        return UNSUPPORTED;
    }
}
