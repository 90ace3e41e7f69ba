/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated Intel TDX guest for TCG: TDVF metadata, TD HOB, MRTD
 *
 * Formats: "Intel TDX Virtual Firmware Design Guide", chapters 4 (TD hand-off
 * block) and 11 (metadata); edk2 OvmfPkg/ResetVector/X64/IntelTdxMetadata.asm;
 * hand-off blocks in the UEFI Platform Initialization specification, volume 3.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "exec/address-spaces.h"
#include "hw/i386/pc.h"
#include "cgs/tdx.h"

#define METADATA_GUID "e47a6535-984a-4798-865e-4685a7bf8ec2"
#define SIGNATURE 0x46564454                /* "TDVF" */

typedef struct QEMU_PACKED Section {
    uint32_t data_offset, raw_size;
    uint64_t address, size;
    uint32_t type, attributes;
} Section;

typedef struct QEMU_PACKED Metadata {
    uint32_t signature, length, version, nr;
    Section section[];
} Metadata;

enum { TYPE_BFV, TYPE_CFV, TYPE_TD_HOB, TYPE_TEMP_MEM };
enum { ATTR_MR_EXTEND = 1, ATTR_PAGE_AUG = 2 };

static const Metadata *metadata;

static G_NORETURN void refuse(const char *why)
{
    error_report("tdx: the firmware given with -bios %s", why);
    exit(1);
}

void tdx_firmware(CgsTcgGuest *g)
{
    const Metadata *md;
    uint64_t offset, size;
    uint8_t *data;

    if (!pc_system_ovmf_table_find(METADATA_GUID, &data, NULL)) {
        refuse("has no TDX metadata; use an OVMF build that supports TDX");
    }
    offset = g->fw_size - ldl_le_p(data);
    if (offset > g->fw_size - sizeof(*md)) {
        refuse("has TDX metadata outside of the image");
    }
    md = (const Metadata *)(g->fw_copy + offset);
    size = sizeof(*md) + (uint64_t)le32_to_cpu(md->nr) * sizeof(Section);
    if (le32_to_cpu(md->signature) != SIGNATURE ||
        le32_to_cpu(md->version) != 1 || size > le32_to_cpu(md->length) ||
        size > g->fw_size - offset) {
        refuse("has broken TDX metadata");
    }
    metadata = md;
}

/* One step of the launch measurement; hash is NULL once MRTD is known. */
static void measure(QCryptoHash *hash, const char *operation, uint64_t gpa,
                    const uint8_t *chunk)
{
    uint8_t block[128] = { };

    if (!hash) {
        return;
    }
    memcpy(block, operation, strlen(operation));
    stq_le_p(block + 16, gpa);
    qcrypto_hash_update(hash, (char *)block, sizeof(block), &error_abort);
    if (chunk) {
        qcrypto_hash_update(hash, (char *)chunk, 256, &error_abort);
    }
}

static void add_section(TdxTcgGuest *td, const Section *s, QCryptoHash *hash)
{
    CgsTcgGuest *g = CGS_TCG_GUEST(td);
    uint64_t address = le64_to_cpu(s->address), size = le64_to_cpu(s->size);
    uint64_t in_image = address - (4 * GiB - g->fw_size);
    uint32_t attributes = le32_to_cpu(s->attributes);
    bool image = false;

    if ((address | size) & 4095 || address + size < address) {
        refuse("has a TDX metadata section that is not of whole pages");
    }
    switch (le32_to_cpu(s->type)) {
    case TYPE_BFV:
    case TYPE_CFV:
        image = true;
        if (in_image != le32_to_cpu(s->data_offset) ||
            in_image + size > g->fw_size) {
            refuse("has a TDX metadata section that is not where the image is");
        }
        break;
    case TYPE_TD_HOB:
        td->hob_addr = address;
        /* fall through */
    case TYPE_TEMP_MEM:
        cgs_launch_write(address, NULL, size);
        break;
    default:
        refuse("has a TDX metadata section of an unknown type");
    }
    if (attributes & ATTR_PAGE_AUG) {
        return;                 /* stays pending */
    }
    for (uint64_t gpa = address; gpa < address + size; gpa += 4 * KiB) {
        measure(hash, "MEM.PAGE.ADD", gpa, NULL);
        for (int i = 0; image && (attributes & ATTR_MR_EXTEND) && i < 16; i++) {
            measure(hash, "MR.EXTEND", gpa + 256 * i,
                    g->fw_copy + in_image + (gpa - address) + 256 * i);
        }
    }
    cgs_launch_pages(address, size, TDX_SMALL);
    tdx_demote(address);
    tdx_demote(address + size - 1);
}

static size_t put_resource(uint8_t *hob, size_t at, uint64_t start,
                           uint64_t size, bool added)
{
    stw_le_p(hob + at, 3);                  /* RESOURCE_DESCRIPTOR */
    stw_le_p(hob + at + 2, 48);
    stl_le_p(hob + at + 24, added ? 0 : 7); /* SYSTEM_MEMORY, UNACCEPTED */
    stl_le_p(hob + at + 28, 7);             /* PRESENT, INITIALIZED, TESTED */
    stq_le_p(hob + at + 32, start);
    stq_le_p(hob + at + 40, size);
    return at + 48;
}

/* PHIT, a descriptor for each run of pages of one state, end of list. */
static void write_hob(TdxTcgGuest *td, uint64_t room)
{
    CgsTcgGuest *g = CGS_TCG_GUEST(td);
    g_autofree uint8_t *hob = g_malloc0(room);
    size_t at = 56;
    uint64_t p, q;

    for (p = 0; p < g->nr_pages; p = q) {
        CgsTcgState st = cgs_state(p << 12);

        for (q = p + 1; q < g->nr_pages && cgs_state(q << 12) == st; q++) {
        }
        /* RAM only: not the firmware's image itself */
        if (st == CGS_TCG_STATE_NONE ||
            (p << 12 >= 4 * GiB - g->fw_size && p << 12 < 4 * GiB)) {
            continue;
        }
        if (at + 48 + 8 > room) {
            refuse("has too little room for the TD hand-off block");
        }
        at = put_resource(hob, at, p << 12, (q - p) << 12,
                          st == CGS_TCG_STATE_PRIVATE);
    }
    stw_le_p(hob + at, 0xffff);             /* END_OF_HOB_LIST */
    stw_le_p(hob + at + 2, 8);
    at += 8;
    stw_le_p(hob, 1);                       /* HANDOFF */
    stw_le_p(hob + 2, 56);
    stl_le_p(hob + 8, 9);                   /* version */
    stq_le_p(hob + 48, td->hob_addr + at);
    cgs_launch_write(td->hob_addr, hob, at);
}

void tdx_launch(CgsTcgGuest *g)
{
    TdxTcgGuest *td = TDX_TCG_GUEST(g);
    QCryptoHash *hash = NULL;
    uint64_t room = 0;

    if (!td->measured) {
        hash = qcrypto_hash_new(QCRYPTO_HASH_ALGO_SHA384, &error_fatal);
    }
    for (uint32_t i = 0; i < le32_to_cpu(metadata->nr); i++) {
        const Section *s = &metadata->section[i];

        add_section(td, s, hash);
        if (le32_to_cpu(s->type) == TYPE_TD_HOB) {
            room = le64_to_cpu(s->size);
        }
    }
    if (!room) {
        refuse("has no TDX metadata section for the TD hand-off block");
    }
    write_hob(td, room);
    if (hash) {
        uint8_t *mrtd = td->mrtd;
        size_t len = sizeof(td->mrtd);

        qcrypto_hash_finalize_bytes(hash, &mrtd, &len, &error_abort);
        qcrypto_hash_free(hash);
        td->measured = true;
    }
    td->pending_ve_disable = !!(td->attributes & TDX_ATTR_SEPT_VE_DISABLE);
    td->notify_enables = 0;
    memset(td->rtmr, 0, sizeof(td->rtmr));
}
