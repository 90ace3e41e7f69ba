/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated confidential guests for TCG: devices reach shared pages only
 *
 * An IOMMU memory region between devices (PCI, fw_cfg) and memory, which maps
 * every address to itself and refuses pages that are not shared.
 */
#include "qemu/osdep.h"
#include "exec/address-spaces.h"
#include "system/dma.h"
#include "system/runstate.h"
#include "hw/pci/pci_bus.h"
#include "cgs/cgs.h"

#define TYPE_CGS_DMA_MEMORY_REGION "cgs-tcg-dma-memory-region"

static struct {
    IOMMUMemoryRegion iommu;
    AddressSpace as;
    bool made;
} dma;

static IOMMUTLBEntry translate(IOMMUMemoryRegion *mr, hwaddr addr,
                               IOMMUAccessFlags flag, int iommu_idx)
{
    /* a driver may leave the shared bit in an address that it gives out */
    hwaddr gpa = cgs_guest->bit_is_shared ? addr & ~cgs_addr_bit : addr;
    IOMMUTLBEntry entry = {
        .target_as = &address_space_memory,
        .iova = addr & TARGET_PAGE_MASK,
        .translated_addr = gpa & TARGET_PAGE_MASK,
        .addr_mask = ~TARGET_PAGE_MASK,
        .perm = IOMMU_RW,
    };
    CgsTcgState st = cgs_guest->state ? cgs_state(gpa) : CGS_TCG_STATE_NONE;

    /*
     * A device that is being loaded maps buffers that it had at the time: it
     * mapped them when they were shared (AHCI's receive buffer).
     */
    if (cgs_guest->check && !runstate_check(RUN_STATE_INMIGRATE) &&
        (st == CGS_TCG_STATE_PENDING || st == CGS_TCG_STATE_PRIVATE) &&
        flag != IOMMU_NONE) {
        cgs_device_violation(gpa, flag & IOMMU_WO);
        if (cgs_guest->on_violation != CGS_TCG_POLICY_REPORT) {
            entry.perm = IOMMU_NONE;
        }
    }
    return entry;
}

static void make(void)
{
    if (!dma.made) {
        memory_region_init_iommu(&dma.iommu, sizeof(dma.iommu),
                                 TYPE_CGS_DMA_MEMORY_REGION, NULL, "cgs-dma",
                                 UINT64_MAX);
        address_space_init(&dma.as, MEMORY_REGION(&dma.iommu), "cgs-dma");
        dma.made = true;
    }
}

AddressSpace *cgs_dma_as(void)
{
    if (!cgs_enabled()) {
        return &address_space_memory;
    }
    make();
    return &dma.as;
}

static AddressSpace *pci_dma_as(PCIBus *bus, void *opaque, int devfn)
{
    return &dma.as;
}

static const PCIIOMMUOps pci_dma_ops = { .get_address_space = pci_dma_as };

void cgs_setup_dma(PCIBus *bus)
{
    if (cgs_enabled()) {
        make();
        pci_setup_iommu(bus, &pci_dma_ops, NULL);
    }
}

void cgs_dma_write(hwaddr gpa, const void *buf, size_t len)
{
    make();
    dma_memory_write(&dma.as, gpa, buf, len, MEMTXATTRS_UNSPECIFIED);
}

static void class_init(ObjectClass *klass, void *data)
{
    IOMMU_MEMORY_REGION_CLASS(klass)->translate = translate;
}

static const TypeInfo info = {
    .name = TYPE_CGS_DMA_MEMORY_REGION,
    .parent = TYPE_IOMMU_MEMORY_REGION,
    .class_init = class_init,
};

static void register_types(void)
{
    type_register_static(&info);
}
type_init(register_types)
