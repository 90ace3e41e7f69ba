/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fw_cfg: a stop before the kernel
 *
 * With -global fw_cfg_io.hold-kernel=on the guest is stopped once, where its
 * firmware first asks for anything that -kernel, -initrd and -append gave. Up
 * to there nothing of them has reached the guest, so that a state saved then
 * can be loaded by a QEMU with others: firmware that has run once serves every
 * kernel.
 *
 * Names of boot files in the directory come with their sizes, which firmware
 * may keep: x86_load_linux() offers none then. What else brings the kernel to
 * the guest does not go together with this: hashes of it in a launch.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "hw/core/cpu.h"
#include "hw/nvram/fw_cfg.h"
#include "migration/vmstate.h"
#include "system/cpus.h"
#include "system/runstate.h"

static bool is_boot_item(uint16_t key)
{
    switch (key) {
    case FW_CFG_KERNEL_ADDR:
    case FW_CFG_KERNEL_SIZE:
    case FW_CFG_KERNEL_CMDLINE:
    case FW_CFG_KERNEL_ENTRY:
    case FW_CFG_KERNEL_DATA:
    case FW_CFG_INITRD_ADDR:
    case FW_CFG_INITRD_SIZE:
    case FW_CFG_INITRD_DATA:
    case FW_CFG_CMDLINE_ADDR:
    case FW_CFG_CMDLINE_SIZE:
    case FW_CFG_CMDLINE_DATA:
    case FW_CFG_SETUP_ADDR:
    case FW_CFG_SETUP_SIZE:
    case FW_CFG_SETUP_DATA:
        return true;
    default:
        return false;
    }
}

static void on_run_state(void *opaque, bool running, RunState state)
{
    FWCfgState *s = opaque;

    if (running) {
        s->holding = false;
    }
}

/*
 * An item was selected, and nothing of it read yet. The vCPU leaves after the
 * block of instructions that it is in; should that read, check() finds it.
 */
void fw_cfg_hold(FWCfgState *s, uint16_t key)
{
    if (!s->hold_kernel || s->held || !is_boot_item(key)) {
        return;
    }
    s->held = true;
    s->holding = true;
    qemu_add_vm_change_state_handler(on_run_state, s);
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(RUN_STATE_PAUSED);
    if (current_cpu) {
        cpu_stop_current();
    }
}

static bool needed(void *opaque)
{
    FWCfgState *s = opaque;

    return s->hold_kernel;
}

static int check(void *opaque)
{
    FWCfgState *s = opaque;

    if (s->holding && (s->cur_offset || !is_boot_item(s->cur_entry))) {
        error_report("fw_cfg: the guest was not stopped in time, and has read "
                     "of what -kernel, -initrd or -append gave");
        return -EINVAL;
    }
    return 0;
}

const VMStateDescription vmstate_fw_cfg_hold = {
    .name = "fw_cfg/hold",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = needed,
    .pre_save = check,
    .fields = (const VMStateField[]) {
        VMSTATE_BOOL(held, FWCfgState),
        VMSTATE_END_OF_LIST()
    },
};
