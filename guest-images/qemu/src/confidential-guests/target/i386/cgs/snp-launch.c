/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated SEV-SNP: what the launch puts into the guest's memory
 *
 * The firmware's metadata is OVMF's (OvmfPkg/ResetVector/X64/
 * OvmfSevMetadata.nasm.inc); CPUID page and secrets page are the SNP firmware
 * ABI's (AMD 56860), sections 8.14.2.6 and 8.14.2.5.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "hw/i386/pc.h"
#include "cgs/snp.h"

#define SEV_METADATA_GUID   "dc886566-984a-4798-a75e-5585a7bf67cc"
#define SEV_INFO_GUID       "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
#define META_HEADER         16
#define META_ENTRY          12

enum {
    META_SEC_MEM = 1,
    META_SECRETS = 2,
    META_CPUID = 3,
    META_SVSM_CAA = 4,
    META_KERNEL_HASHES = 0x10,
};

/* Secrets page, version 3 */
#define SECRETS_FMS         0x08
#define SECRETS_VMPCK       0x20
#define SECRETS_VMPCK_SIZE  (4 * 32)

/* CPUID page: header and up to 64 functions */
#define CPUID_MAX           64
#define CPUID_HEADER        16
#define CPUID_ENTRY         48
#define XSAVE_LEGACY_SIZE   0x240

static G_NORETURN void firmware_error(const char *what)
{
    error_report("snp-tcg-guest: the firmware given with -bios %s; use an OVMF "
                 "build with SEV-SNP support, such as the OVMF.fd of edk2 "
                 "2023.05 or later", what);
    exit(1);
}

void snp_firmware(CgsTcgGuest *g)
{
    SnpTcgGuest *s = (SnpTcgGuest *)g;
    uint8_t *p, *end = g->fw_copy + g->fw_size;
    uint32_t off, len, i;
    int size;

    if (!pc_system_ovmf_table_find(SEV_METADATA_GUID, &p, &size) || size < 4) {
        firmware_error("has no SEV metadata");
    }
    off = ldl_le_p(p);
    if (off < META_HEADER || off > g->fw_size ||
        memcmp(end - off, "ASEV", 4) != 0) {
        firmware_error("has broken SEV metadata");
    }
    p = end - off;
    len = ldl_le_p(p + 4);
    s->nr_meta = ldl_le_p(p + 12);
    if (ldl_le_p(p + 8) != 1 || len > off || len < META_HEADER ||
        s->nr_meta > (len - META_HEADER) / META_ENTRY) {
        firmware_error("has SEV metadata of an unknown version");
    }
    s->meta = g_new(SnpMetaDesc, s->nr_meta);
    for (i = 0, p += META_HEADER; i < s->nr_meta; i++, p += META_ENTRY) {
        s->meta[i] = (SnpMetaDesc){ ldl_le_p(p), ldl_le_p(p + 4),
                                    ldl_le_p(p + 8) };
    }
    if (pc_system_ovmf_table_find(SEV_INFO_GUID, &p, &size) && size >= 4) {
        s->ap_reset_addr = ldl_le_p(p);
    }
}

void snp_cpuid(CPUX86State *env, uint32_t index, uint32_t count,
               uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    SnpTcgGuest *s = snp_guest();

    /* the SNP firmware refuses these features: sev_snp_mask_cpuid_features() */
    switch (index) {
    case 1:
        *ecx &= ~CPUID_EXT_TSC_DEADLINE_TIMER;
        break;
    case 7:
        if (count == 0) {
            *ebx &= ~CPUID_7_0_EBX_TSC_ADJUST;
            *edx &= ~(CPUID_7_0_EDX_SPEC_CTRL | CPUID_7_0_EDX_STIBP |
                      CPUID_7_0_EDX_FLUSH_L1D |
                      CPUID_7_0_EDX_ARCH_CAPABILITIES |
                      CPUID_7_0_EDX_CORE_CAPABILITY |
                      CPUID_7_0_EDX_SPEC_CTRL_SSBD);
        }
        break;
    case 0x80000008:
        *ebx &= ~CPUID_8000_0008_EBX_VIRT_SSBD;
        break;
    case 0x8000001f:
        /* SEV, SEV-ES, SEV-SNP; one bit of address space less */
        *eax = 1 << 1 | 1 << 3 | 1 << 4;
        *ebx = s->cbitpos | 1 << 6 | (s->coherency_sfw_no ? 1u << 31 : 0);
        *ecx = *edx = 0;
        break;
    }
}

static bool is_indexed(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd ||
           leaf == 0x14 || leaf == 0x1d || leaf == 0x1e || leaf == 0x8000001d;
}

/* Append a function; false if there is nothing to say. */
static bool add_cpuid(uint8_t *page, CPUX86State *env, uint32_t leaf,
                      uint32_t sub)
{
    uint32_t n = ldl_le_p(page), r[4];
    uint8_t *e = page + CPUID_HEADER + n * CPUID_ENTRY;

    cpu_x86_cpuid(env, leaf, sub, &r[0], &r[1], &r[2], &r[3]);
    /* 0xb ends at a level of type 0, which still has the APIC ID in EDX */
    if (leaf == 0xb ? !(r[2] & 0xff00) : !(r[0] | r[1] | r[2] | r[3])) {
        return false;
    }
    if (n == CPUID_MAX) {
        error_report("snp-tcg-guest: the CPU model has more than %d CPUID "
                     "functions; use a simpler one, such as -cpu EPYC-v4",
                     CPUID_MAX);
        exit(1);
    }
    if (leaf == 0xd && sub < 2) {
        /* guests compute the size for their XCR0 from the other functions */
        r[1] = XSAVE_LEGACY_SIZE;
        stq_le_p(e + 8, 1);     /* XCR0_IN */
    }
    stl_le_p(e, leaf);
    stl_le_p(e + 4, sub);
    for (int i = 0; i < 4; i++) {
        stl_le_p(e + 24 + 4 * i, r[i]);
    }
    stl_le_p(page, n + 1);
    return true;
}

static void fill_cpuid(uint8_t *page)
{
    static const uint32_t bases[] = { 0, 0x40000000, 0x80000000 };
    CPUX86State *env = cpu_env(first_cpu);

    for (int i = 0; i < ARRAY_SIZE(bases); i++) {
        uint32_t max, leaf, unused;

        cpu_x86_cpuid(env, bases[i], 0, &max, &unused, &unused, &unused);
        for (leaf = bases[i]; leaf <= max && leaf - bases[i] < 0x100; leaf++) {
            uint32_t last = !is_indexed(leaf) ? 0 : leaf == 0xd ? 63 : 31;

            for (uint32_t sub = 0; sub <= last; sub++) {
                /* only 0xd has gaps */
                if (!add_cpuid(page, env, leaf, sub) && leaf != 0xd) {
                    break;
                }
            }
        }
    }
}

static void fill_secrets(uint8_t *page)
{
    uint32_t fms, unused;

    cpu_x86_cpuid(cpu_env(first_cpu), 1, 0, &fms, &unused, &unused, &unused);
    stl_le_p(page, 3);
    stl_le_p(page + SECRETS_FMS, fms);
    qemu_guest_getrandom_nofail(page + SECRETS_VMPCK, SECRETS_VMPCK_SIZE);
}

void snp_launch(CgsTcgGuest *g)
{
    SnpTcgGuest *s = (SnpTcgGuest *)g;

    s->ap_jump_table = 0;
    cgs_launch_pages((1ull << 32) - g->fw_size, g->fw_size,
                     SNP_USED | SNP_RMP_4K);
    for (uint32_t i = 0; i < s->nr_meta; i++) {
        const SnpMetaDesc *d = &s->meta[i];
        uint8_t page[TARGET_PAGE_SIZE] = { 0 };
        uint64_t start, len;

        if (d->type == META_CPUID) {
            fill_cpuid(page);
        } else if (d->type == META_SECRETS) {
            fill_secrets(page);
        }
        cgs_launch_pages(d->base, d->len, SNP_USED | SNP_RMP_4K);
        start = QEMU_ALIGN_DOWN(d->base, 2 * MiB);
        len = QEMU_ALIGN_UP(d->base + (uint64_t)d->len, 2 * MiB) - start;
        cgs_set_bits(start, len >> TARGET_PAGE_BITS, SNP_RMP_4K, 0);
        cgs_launch_write(d->base, NULL, d->len);
        cgs_launch_write(d->base, page, MIN(d->len, sizeof(page)));
        if (d->type == META_KERNEL_HASHES && s->hashes &&
            s->hashes_gpa >= d->base &&
            s->hashes_gpa + s->hashes_size <= d->base + d->len) {
            cgs_launch_write(s->hashes_gpa, s->hashes, s->hashes_size);
        }
    }
}
