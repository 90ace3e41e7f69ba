/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: hashes of kernel, initrd and command line
 *
 * Firmware of the AmdSevX64 kind takes a kernel from fw_cfg only if the launch
 * measured these: OvmfPkg/AmdSev/BlobVerifierLibSevHashes of edk2, and
 * sev_add_kernel_loader_hashes() for real guests.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/uuid.h"
#include "crypto/hash.h"
#include "hw/i386/pc.h"
#include "target/i386/sev.h"
#include "cgs/snp.h"

#define AREA_GUID       "7255371f-3a3b-4b04-927b-1da6efa8d454"
#define TABLE_GUID      "9438d606-4f22-4cc9-b479-a793d411fd21"
#define KERNEL_GUID     "4de79437-abd2-427f-b835-d5b172d2045b"
#define INITRD_GUID     "44baf731-3a2f-4bd7-9af1-41e29169781d"
#define CMDLINE_GUID    "97d02dd8-bd20-4c94-aa78-e7714d36ab2a"

#define HASH_SIZE       32
#define ENTRY_HEADER    18      /* GUID and length, which covers all of it */
#define ENTRY_SIZE      (ENTRY_HEADER + HASH_SIZE)
#define TABLE_SIZE      (ENTRY_HEADER + 3 * ENTRY_SIZE)

static uint8_t *put_header(uint8_t *p, const char *guid, uint16_t len)
{
    QemuUUID uuid;

    if (qemu_uuid_parse(guid, &uuid) < 0) {
        g_assert_not_reached();
    }
    uuid = qemu_uuid_bswap(uuid);       /* GUIDs are little endian */
    memcpy(p, &uuid, sizeof(uuid));
    stw_le_p(p + sizeof(uuid), len);
    return p + ENTRY_HEADER;
}

static uint8_t *put_hash(uint8_t *p, const char *guid, const struct iovec *iov,
                         int n)
{
    uint8_t *hash = put_header(p, guid, ENTRY_SIZE);
    size_t len = HASH_SIZE;

    qcrypto_hash_bytesv(QCRYPTO_HASH_ALGO_SHA256, iov, n, &hash, &len,
                        &error_abort);
    return hash + len;
}

void snp_kernel_loader(CgsTcgGuest *g, const SevKernelLoaderContext *ctx,
                       Error **errp)
{
    SnpTcgGuest *s = (SnpTcgGuest *)g;
    const struct iovec cmdline = { ctx->cmdline_data, ctx->cmdline_size };
    const struct iovec initrd = { ctx->initrd_data, ctx->initrd_size };
    const struct iovec kernel[] = {
        { ctx->setup_data, ctx->setup_size },
        { ctx->kernel_data, ctx->kernel_size },
    };
    uint8_t *area, *p;
    int len;

    if (!s->kernel_hashes) {
        return;
    }
    if (!pc_system_ovmf_table_find(AREA_GUID, &area, &len) || len < 8 ||
        ldl_le_p(area + 4) < QEMU_ALIGN_UP(TABLE_SIZE, 16)) {
        error_setg(errp, "kernel-hashes=on needs a firmware with a table for "
                   "them, such as OVMF.amdsev.fd");
        return;
    }
    s->hashes_gpa = ldl_le_p(area);
    s->hashes = g_malloc0(QEMU_ALIGN_UP(TABLE_SIZE, 16));
    p = put_header(s->hashes, TABLE_GUID, TABLE_SIZE);
    p = put_hash(p, CMDLINE_GUID, &cmdline, 1);
    p = put_hash(p, INITRD_GUID, &initrd, 1);
    put_hash(p, KERNEL_GUID, kernel, ARRAY_SIZE(kernel));
    s->hashes_size = QEMU_ALIGN_UP(TABLE_SIZE, 16);
}
