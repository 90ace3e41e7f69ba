/*
 * Emulated confidential guests for TCG: the firmware image
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/i386/pc.h"
#include "hw/loader.h"
#include "cgs/cgs.h"

bool cgs_load_firmware(const char *filename, void *ptr, size_t size)
{
    CgsTcgGuest *g = cgs_guest;

    if (!cgs_enabled()) {
        return false;
    }
    if (load_image_size(filename, ptr, size) != size) {
        return false;
    }
    pc_system_parse_ovmf_flash(ptr, size);
    g->fw = ptr;
    g->fw_size = size;
    g->fw_copy = g_memdup2(ptr, size);
    if (cgs_class()->firmware) {
        cgs_class()->firmware(g);
    }
    return cgs_class()->fw_is_private;
}
