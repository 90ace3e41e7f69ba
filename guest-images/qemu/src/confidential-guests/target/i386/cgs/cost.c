/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated confidential guests for TCG: what acceptance costs the guest
 *
 * Without -icount the vCPU waits until the virtual clock, which follows the
 * host's, has moved on. With -icount the virtual clock is moved on, as if the
 * one instruction took so long: timers that are due in between run late, at
 * its end, as interrupts do on hardware.
 */
#include "qemu/osdep.h"
#include "qemu/processor.h"
#include "qemu/seqlock.h"
#include "qemu/timer.h"
#include "system/cpu-timers.h"
#include "system/cpu-timers-internal.h"
#include "system/runstate.h"
#include "cgs/cgs.h"

void cgs_spend(CPUX86State *env, uint64_t ns)
{
    int64_t end;

    if (!ns) {
        return;
    }
    if (icount_enabled()) {
        seqlock_write_lock(&timers_state.vm_clock_seqlock,
                           &timers_state.vm_clock_lock);
        qatomic_set_i64(&timers_state.qemu_icount_bias,
                        timers_state.qemu_icount_bias + ns);
        seqlock_write_unlock(&timers_state.vm_clock_seqlock,
                             &timers_state.vm_clock_lock);
        /* timers may be due now: leave the loop to look */
        cpu_exit(env_cpu(env));
        return;
    }
    end = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + ns;
    while (qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) < end) {
        /* the clock stands still while the guest is being stopped */
        if (qatomic_read(&env_cpu(env)->exit_request) &&
            !runstate_is_running()) {
            break;
        }
        cpu_relax();
    }
}
