/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated confidential guests for TCG: the event stream
 *
 * A file of records of 64 bytes, little endian. The first is a header:
 *
 *   0  char[8] "CGSTCG1\0"
 *   8  u32     size of a record: 64
 *  12  u32     platform: 1 TDX, 2 SNP
 *  16  u64     the shared bit or the C bit, as a mask
 *  24  u64     host's wall clock at start, ns since 1970
 *  32  zeroes
 *
 * and each of the others a CgsEvent (cgs.h), in the order of seq.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-cgs-tcg.h"
#include "system/runstate.h"
#include "system/system.h"
#include "cgs/cgs.h"

#define BUFFERED 1024           /* records */

static struct {
    int fd;
    uint64_t seq;
    uint64_t written, dropped;
    unsigned used;
    CgsEvent buffer[BUFFERED];
    Notifier exit;
} stream = { .fd = -1 };

uint64_t cgs_now(void)
{
    CPUState *cs = current_cpu;
    uint64_t now;
    bool can_do_io;

    if (!cs || !cs->running) {
        return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    }
    /*
     * With -icount the clock may not be read in the middle of a translation
     * block, where time seems to be at the block's end. That is good enough
     * for a time stamp, and the same in every run.
     */
    can_do_io = cs->neg.can_do_io;
    cs->neg.can_do_io = true;
    now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    cs->neg.can_do_io = can_do_io;
    return now;
}

/* With the lock held. */
static void write_out(void)
{
    size_t size = stream.used * sizeof(CgsEvent);

    if (!stream.used || stream.fd < 0) {
        return;
    }
    if (qemu_write_full(stream.fd, stream.buffer, size) != size) {
        warn_report("cgs-tcg: cannot write to the event stream '%s': %s; no "
                    "further events are written", cgs_guest->events_path,
                    strerror(errno));
        /* a record may be there in part; readers drop an incomplete one */
        stream.dropped += stream.used;
        stream.written -= stream.used;
        qemu_close(stream.fd);
        stream.fd = -1;
    }
    stream.used = 0;
}

void cgs_event(CPUX86State *env, CgsEvent *ev)
{
    CgsTcgGuest *g = cgs_guest;
    CgsEvent *e;

    QEMU_LOCK_GUARD(&g->lock);
    ev->seq = stream.seq++;
    if (stream.fd < 0 ||
        (stream.written + 2) * sizeof(CgsEvent) > g->events_max) {
        stream.dropped += g->events_path != NULL;
        return;
    }
    e = &stream.buffer[stream.used++];
    stream.written++;
    *e = (CgsEvent){
        .seq = cpu_to_le64(ev->seq),
        .time_ns = cpu_to_le64(cgs_now()),
        .gpa = cpu_to_le64(ev->gpa),
        .rip = cpu_to_le64(ev->rip ?: env ? env->eip : 0),
        .npages = cpu_to_le32(ev->npages),
        .kind = cpu_to_le16(ev->kind),
        .vcpu = cpu_to_le16(env ? env_cpu(env)->cpu_index : 0xffff),
        .level = ev->level,
        .before = ev->before,
        .after = ev->after,
        .flags = ev->flags,
        .result = cpu_to_le32(ev->result),
        .code = cpu_to_le64(ev->code),
        .aux = cpu_to_le64(ev->aux),
    };
    if (stream.used == BUFFERED) {
        write_out();
    }
}

CgsTcgEventStats *cgs_events_flush(CgsTcgGuest *g)
{
    CgsTcgEventStats *s = g_new0(CgsTcgEventStats, 1);

    QEMU_LOCK_GUARD(&g->lock);
    write_out();
    s->path = g_strdup(g->events_path);
    s->written = stream.written;
    s->dropped = stream.dropped;
    return s;
}

CgsTcgEventStats *qmp_cgs_tcg_flush_events(Error **errp)
{
    if (!cgs_guest) {
        error_setg(errp, "there is no emulated confidential guest");
        return NULL;
    }
    return cgs_events_flush(cgs_guest);
}

static void flush_at_exit(Notifier *n, void *data)
{
    QEMU_LOCK_GUARD(&cgs_guest->lock);
    write_out();
}

static void on_state_change(void *opaque, bool running, RunState state)
{
    CgsTcgGuest *g = opaque;

    if (!running) {
        QEMU_LOCK_GUARD(&g->lock);
        write_out();
    }
}

void cgs_events_open(CgsTcgGuest *g, Error **errp)
{
    CgsTcgClass *cls = CGS_TCG_GUEST_GET_CLASS(g);
    uint8_t header[sizeof(CgsEvent)] = "CGSTCG1";

    if (!g->events_path) {
        return;
    }
    stream.fd = qemu_create(g->events_path, O_WRONLY | O_TRUNC | O_BINARY,
                            0644, errp);
    if (stream.fd < 0) {
        return;
    }
    stl_le_p(header + 8, sizeof(CgsEvent));
    stl_le_p(header + 12, cls->platform_id);
    stq_le_p(header + 16, g->addr_bit);
    stq_le_p(header + 24, g_get_real_time() * 1000);
    if (qemu_write_full(stream.fd, header, sizeof(header)) != sizeof(header)) {
        error_setg_errno(errp, errno, "cannot write to the event stream '%s'",
                         g->events_path);
        return;
    }
    stream.exit.notify = flush_at_exit;
    qemu_add_exit_notifier(&stream.exit);
    qemu_add_vm_change_state_handler(on_state_change, g);
}
