/*
 * Emulated confidential guests for TCG: save and restore
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "migration/vmstate.h"
#include "cgs/cgs.h"

#define RUN_BYTES 5             /* u32 length, u8 state */

static int pre_save(void *opaque)
{
    CgsTcgGuest *g = opaque;
    GByteArray *runs = g_byte_array_new();
    uint64_t p, q;

    for (p = 0; p < g->nr_pages; p = q) {
        uint8_t run[RUN_BYTES];

        for (q = p + 1; q < g->nr_pages && g->state[q] == g->state[p]; q++) {
        }
        stl_le_p(run, q - p);
        run[4] = g->state[p];
        g_byte_array_append(runs, run, RUN_BYTES);
    }
    g->saved_size = runs->len;
    g->saved = g_byte_array_free(runs, false);
    return 0;
}

static int post_save(void *opaque)
{
    CgsTcgGuest *g = opaque;

    g_clear_pointer(&g->saved, g_free);
    return 0;
}

static int post_load(void *opaque, int version_id)
{
    CgsTcgGuest *g = opaque;
    CgsEvent ev = { .kind = CGS_EV_RESTORE };
    uint64_t p = 0, n[4];

    for (uint32_t i = 0; i + RUN_BYTES <= g->saved_size; i += RUN_BYTES) {
        uint32_t len = ldl_le_p(g->saved + i);

        if (len > g->nr_pages - p) {
            p = -1;
            break;
        }
        memset(g->state + p, g->saved[i + 4] & ~CGS_BUSY, len);
        p += len;
    }
    g_clear_pointer(&g->saved, g_free);
    if (p != g->nr_pages) {
        error_report("cgs-tcg: page states in the stream are for another size "
                     "of memory");
        return -EINVAL;
    }
    cgs_count_pages(n);
    ev.npages = n[CGS_TCG_STATE_PENDING];
    ev.aux = n[CGS_TCG_STATE_PRIVATE];
    cgs_event(NULL, &ev);
    return 0;
}

static const VMStateDescription vmstate_guest = {
    .name = "cgs-tcg",
    .version_id = 1,
    .minimum_version_id = 1,
    /* before devices: virtio maps its rings when it is loaded */
    .priority = MIG_PRI_IOMMU,
    .pre_save = pre_save,
    .post_save = post_save,
    .post_load = post_load,
    .fields = (const VMStateField[]) {
        /* first what must be the same where the state goes */
        VMSTATE_UINT32_EQUAL(identity, CgsTcgGuest,
                             "the state is of another platform"),
        VMSTATE_UINT64_EQUAL(addr_bit, CgsTcgGuest,
                             "the state has another shared or C bit"),
        VMSTATE_UINT64_EQUAL(nr_pages, CgsTcgGuest,
                             "the state has another size of memory"),
        VMSTATE_BUFFER_UNSAFE(stats, CgsTcgGuest, 1, sizeof(CgsStats)),
        VMSTATE_UINT32(saved_size, CgsTcgGuest),
        VMSTATE_VBUFFER_ALLOC_UINT32(saved, CgsTcgGuest, 1, NULL, saved_size),
        VMSTATE_END_OF_LIST()
    },
};

void cgs_vmstate_register(CgsTcgGuest *g)
{
    g->identity = cgs_class()->platform_id;
    vmstate_register(NULL, 0, &vmstate_guest, g);
}

static bool vcpu_needed(void *opaque)
{
    return cgs_enabled();
}

/* A subsection of each vCPU's. */
const VMStateDescription vmstate_cgs_vcpu = {
    .name = "cpu/cgs-tcg",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = vcpu_needed,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(env.cgs.ve.valid, X86CPU),
        VMSTATE_UINT64(env.cgs.ve.reason, X86CPU),
        VMSTATE_UINT64(env.cgs.ve.qualification, X86CPU),
        VMSTATE_UINT64(env.cgs.ve.gla, X86CPU),
        VMSTATE_UINT64(env.cgs.ve.gpa, X86CPU),
        VMSTATE_UINT64(env.cgs.ve.length, X86CPU),
        VMSTATE_UINT64(env.cgs.ve.cpuid_ve, X86CPU),
        VMSTATE_BOOL(env.cgs.tdx_halted, X86CPU),
        VMSTATE_UINT64(env.cgs.ghcb_msr, X86CPU),
        VMSTATE_UINT64(env.cgs.ghcb_gpa, X86CPU),
        VMSTATE_UINT64(env.cgs.vmsa_gpa, X86CPU),
        VMSTATE_UINT64(env.cgs.vmsa_pending, X86CPU),
        VMSTATE_UINT8(env.cgs.ap_hold, X86CPU),
        VMSTATE_BOOL(env.cgs.started, X86CPU),
        VMSTATE_END_OF_LIST()
    }
};
