/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated Intel TDX guest for TCG: measurements, TDREPORT
 *
 * Structures: td_report_t in include/tdx_api_defs.h of the TDX module 1.5. The
 * MAC is not one that any quoting enclave would take: there is no CPU key. It
 * is zero, and so are the measurements of the (missing) module and CPU.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "exec/address-spaces.h"
#include "cgs/tdx.h"

typedef struct QEMU_PACKED TdInfo {
    uint64_t attributes, xfam;
    uint8_t mrtd[TDX_HASH_BYTES], mrconfigid[TDX_HASH_BYTES];
    uint8_t mrowner[TDX_HASH_BYTES], mrownerconfig[TDX_HASH_BYTES];
    uint8_t rtmr[TDX_RTMRS][TDX_HASH_BYTES];
    uint8_t servtd_hash[TDX_HASH_BYTES];
    uint8_t reserved[64];
} TdInfo;
QEMU_BUILD_BUG_ON(sizeof(TdInfo) != 512);

typedef struct QEMU_PACKED Report {
    /* REPORTMACSTRUCT */
    uint8_t type, subtype, version, reserved0;
    uint8_t reserved1[12], cpusvn[16];
    uint8_t tee_tcb_info_hash[TDX_HASH_BYTES], tee_info_hash[TDX_HASH_BYTES];
    uint8_t report_data[64];
    uint8_t reserved2[32], mac[32];
    /* TEE_TCB_INFO and what pads it */
    uint8_t tee_tcb_info[239], reserved3[17];
    TdInfo td_info;
} Report;
QEMU_BUILD_BUG_ON(sizeof(Report) != 1024);

static void sha384(const void *data, size_t size, uint8_t *out)
{
    uint8_t *result = out;
    size_t len = TDX_HASH_BYTES;

    qcrypto_hash_bytes(QCRYPTO_HASH_ALGO_SHA384, data, size, &result, &len,
                       &error_abort);
}

uint64_t tdx_xfam(CPUX86State *env)
{
    return env->features[FEAT_XSAVE_XCR0_LO] |
           (uint64_t)env->features[FEAT_XSAVE_XCR0_HI] << 32;
}

uint64_t tdx_rtmr_extend(CPUX86State *env)
{
    TdxTcgGuest *td = tdx_guest();
    uint64_t gpa = env->regs[R_ECX], index = env->regs[R_EDX];
    uint8_t both[2 * TDX_HASH_BYTES];

    if (gpa & 63 ||
        !tdx_check_buffer(env, gpa, true, CGS_TCG_ACCESS_CALL)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (index >= TDX_RTMRS) {
        return TDX_OPERAND_INVALID | TDX_RDX;
    }
    address_space_read(&address_space_memory, gpa, MEMTXATTRS_UNSPECIFIED,
                       both + TDX_HASH_BYTES, TDX_HASH_BYTES);
    QEMU_LOCK_GUARD(&cgs_guest->lock);
    memcpy(both, td->rtmr[index], TDX_HASH_BYTES);
    sha384(both, sizeof(both), td->rtmr[index]);
    return TDX_SUCCESS;
}

uint64_t tdx_mr_report(CPUX86State *env)
{
    TdxTcgGuest *td = tdx_guest();
    uint64_t gpa = env->regs[R_ECX], data_gpa = env->regs[R_EDX];
    Report report = { .type = 0x81 };           /* TDX */

    if (gpa & (sizeof(Report) - 1)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (data_gpa & (sizeof(report.report_data) - 1) ||
        !tdx_check_buffer(env, data_gpa, false, CGS_TCG_ACCESS_CALL)) {
        return TDX_OPERAND_INVALID | TDX_RDX;
    }
    if (env->regs[8]) {
        return TDX_OPERAND_INVALID | TDX_R8;
    }
    if (!tdx_check_buffer(env, gpa, false, CGS_TCG_ACCESS_CALL)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    address_space_read(&address_space_memory, data_gpa & ~cgs_addr_bit,
                       MEMTXATTRS_UNSPECIFIED, report.report_data,
                       sizeof(report.report_data));
    report.td_info.attributes = cpu_to_le64(td->attributes);
    report.td_info.xfam = cpu_to_le64(tdx_xfam(env));
    memcpy(report.td_info.mrtd, td->mrtd, sizeof(td->mrtd));
    WITH_QEMU_LOCK_GUARD(&cgs_guest->lock) {
        memcpy(report.td_info.rtmr, td->rtmr, sizeof(td->rtmr));
    }
    sha384(&report.td_info, sizeof(report.td_info), report.tee_info_hash);
    sha384(report.tee_tcb_info, sizeof(report.tee_tcb_info),
           report.tee_tcb_info_hash);
    address_space_write(&address_space_memory, gpa & ~cgs_addr_bit,
                        MEMTXATTRS_UNSPECIFIED, &report, sizeof(report));
    return TDX_SUCCESS;
}
