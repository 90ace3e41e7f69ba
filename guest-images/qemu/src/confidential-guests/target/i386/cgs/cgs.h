/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated confidential guests for TCG: what the platforms share
 *
 * The core keeps one state byte for each 4 KiB page of guest memory, checks it
 * at every TLB fill and device access, and does all the bookkeeping: policies,
 * events, statistics, fault injection, cost, save and restore. A platform (TDX,
 * SNP) is a subclass of CgsTcgGuest that adds instructions, launch state and
 * status codes.
 */
#ifndef I386_CGS_CGS_H
#define I386_CGS_CGS_H

#include "qapi/qapi-types-cgs-tcg.h"
#include "system/confidential-guest-support.h"
#include "exec/hwaddr.h"
#include "qemu/notify.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "cpu.h"
#include "cgs/hooks.h"

#define TYPE_CGS_TCG_GUEST "cgs-tcg-guest"
OBJECT_DECLARE_TYPE(CgsTcgGuest, CgsTcgClass, CGS_TCG_GUEST)

/*
 * State byte: CgsTcgState in bits 1:0, then flags.
 */
#define CGS_STATE_MASK  0x03
#define CGS_DIRTY       0x04    /* contents may be other than zeroes */
#define CGS_BUSY        0x08    /* a vCPU is changing this page */
#define CGS_PLATFORM    0xf0    /* bits that belong to the platform */

#define CGS_LEVELS      3       /* 4 KiB, 2 MiB, 1 GiB */

static inline uint64_t cgs_level_pages(unsigned level)
{
    return 1ull << (9 * level);
}

/* Why a record is in the event stream; values are part of the file format. */
typedef enum CgsEventKind {
    CGS_EV_LAUNCH = 1,          /* npages pending, aux: pages private */
    CGS_EV_ACCEPT = 2,
    CGS_EV_TO_SHARED = 3,       /* aux 63:32: of the pages changed, pending */
    CGS_EV_TO_PENDING = 4,
    CGS_EV_RESCIND = 5,         /* private to pending, by the guest */
    CGS_EV_VIOLATION = 6,       /* level: CgsTcgViolationKind, aux: GVA */
    CGS_EV_FAULT = 7,           /* level: CgsTcgFaultKind */
    CGS_EV_UNKNOWN_CALL = 8,    /* aux: number */
    CGS_EV_FATAL = 9,           /* code: the guest's */
    CGS_EV_RESTORE = 10,        /* as CGS_EV_LAUNCH */
    CGS_EV_PLUG = 11,
    CGS_EV_UNPLUG = 12,
    CGS_EV_VCPU = 13,           /* a vCPU was started; aux: its index */
} CgsEventKind;

#define CGS_EVF_FAULT    0x01   /* the outcome was forced by a fault */
#define CGS_EVF_IMPLICIT 0x02   /* the guest did not ask for it */

/* One record of the event stream: 64 bytes, little endian. See events.c. */
typedef struct CgsEvent {
    uint64_t seq;               /* from 0; gaps are records dropped */
    uint64_t time_ns;           /* QEMU_CLOCK_VIRTUAL */
    uint64_t gpa;
    uint64_t rip;
    uint32_t npages;            /* of 4 KiB, affected or asked for */
    uint16_t kind;              /* CgsEventKind */
    uint16_t vcpu;              /* CPU index, 0xffff for none */
    uint8_t level;              /* page size asked for; see CgsEventKind */
    uint8_t before;             /* state of the first page before */
    uint8_t after;              /* and after */
    uint8_t flags;
    uint32_t result;            /* CgsTcgResult */
    uint64_t code;              /* the platform's status code */
    uint64_t aux;
} CgsEvent;
QEMU_BUILD_BUG_ON(sizeof(CgsEvent) != 64);

/* Since the last launch; saved and restored. Only uint64_t in here. */
typedef struct CgsStats {
    uint64_t launches;
    uint64_t launch_pages[4];   /* by CgsTcgState */
    uint64_t accepts[CGS_LEVELS][CGS_TCG_RESULT__MAX];
    uint64_t conversions[CGS_TCG_RESULT__MAX];
    uint64_t accepted, private_to_pending, pending_to_shared;
    uint64_t private_to_shared, shared_to_pending, implicit;
    uint64_t plugged, unplugged;
    uint64_t violations[CGS_TCG_VIOLATION_KIND__MAX];
} CgsStats;

typedef struct CgsCall {
    const char *interface;
    uint64_t number, calls, refused;
} CgsCall;

struct CgsTcgGuest {
    ConfidentialGuestSupport parent_obj;

    /* properties; see qapi/cgs-tcg.json */
    CgsTcgPolicy on_violation;
    bool check;
    bool intercepts;
    bool keep_contents;
    uint8_t max_page_level;
    char *events_path;
    uint64_t events_max;
    uint64_t accept_ns[CGS_LEVELS];
    uint64_t convert_ns;
    uint64_t convert_ns_4k;
    CgsTcgFaultList *faults;

    /* set by the platform before the machine is made */
    uint64_t addr_bit;          /* the shared bit or the C bit */
    bool bit_is_shared;         /* TDX: set means shared; SNP: private */

    /* page states, indexed by GPA >> 12 */
    uint8_t *state;
    uint64_t nr_pages;

    QemuMutex lock;             /* statistics, calls, faults, events */
    CgsStats stats;
    GArray *calls;              /* of CgsCall */
    CgsTcgViolation *last_violation;
    CgsTcgFatal *fatal;
    uint64_t reported;          /* violations reported by QMP event */

    /* firmware given by -bios */
    uint8_t *fw;                /* in guest memory */
    uint8_t *fw_copy;           /* as loaded */
    size_t fw_size;

    /* vmstate: platform_id, and run-length encoded page states */
    uint32_t identity;
    uint8_t *saved;
    uint32_t saved_size;

    Notifier machine_done;
};

/* An access to be checked. */
typedef struct CgsAccess {
    hwaddr gpa;                 /* without the shared or C bit */
    vaddr gva;
    bool shared;
    CgsTcgAccess type;
    CgsTcgState state;          /* of the page; filled in by the core */
    uintptr_t ra;               /* host return address, 0 at a boundary */
} CgsAccess;

/* What a range of pages looks like, while it is locked. */
typedef struct CgsTally {
    uint64_t n[4];              /* pages by CgsTcgState */
    uint8_t first;              /* state byte of the first page */
    uint8_t any, all;           /* OR and AND of the platform's bits */
} CgsTally;

/* An acceptance by the guest. */
typedef struct CgsAccept {
    hwaddr gpa;
    unsigned level;
    bool zero;                  /* TDX: contents become zeroes */
    uint8_t set_bits;           /* platform bits of the pages afterwards */
    /*
     * Judge the locked range; CGS_TCG_RESULT_OK goes on. Without it, the
     * core's: already if all are private, size-mismatch if some are or if
     * level is above max-page-level, not-private if any is shared or none.
     */
    CgsTcgResult (*judge)(const CgsTally *tally, unsigned level);
} CgsAccept;

/* Of the platforms; part of the event stream's and the saved state's format. */
enum { CGS_ID_TDX = 1, CGS_ID_SNP = 2 };

struct CgsTcgClass {
    ConfidentialGuestSupportClass parent_class;

    const char *platform;       /* "tdx", "snp" */
    uint32_t platform_id;
    bool low_hole;              /* 0xa0000-0xfffff is no guest memory */
    bool fw_is_private;         /* -bios is RAM, and loaded at each launch */
    /* SNP: fetches and page walks are private, whatever the C bit says */
    bool code_is_private;

    /* Check properties, set addr_bit; the machine is not made yet. */
    void (*complete)(CgsTcgGuest *g, Error **errp);
    /* -bios was loaded; fw, fw_copy and fw_size are set. */
    void (*firmware)(CgsTcgGuest *g);
    /*
     * Cold boot and every reset: all RAM was made pending. Mark what the
     * firmware's metadata names (cgs_launch_pages) and write what it asks for.
     */
    void (*launch)(CgsTcgGuest *g);
    /* After the reset of a vCPU and its APIC. */
    void (*reset_vcpu)(X86CPU *cpu);
    /* May change what cpu_x86_cpuid() returns. */
    void (*cpuid)(CPUX86State *env, uint32_t index, uint32_t count,
                  uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx);
    /*
     * A forbidden access under policy inject: do as hardware does. May raise
     * an exception (does not return then). Returns true if the access is to be
     * made again (the host converted the page); false if hardware or host would
     * end the guest, with why in *detail.
     */
    bool (*inject)(CPUX86State *env, const CgsAccess *acc,
                   CgsTcgViolationKind kind, const char **detail);
    /*
     * Optional, any policy: an access that is not plainly right (state and
     * sharing differ, or no memory). True if it is allowed all the same.
     */
    bool (*tolerate)(CPUX86State *env, const CgsAccess *acc);
    /* Optional: raise the platform's exception for MMIO (intercepts=on). */
    void (*mmio)(CPUX86State *env, const CgsAccess *acc);
    /* Optional: last word on an access to a page in the right state. */
    bool (*forbid)(CPUX86State *env, const CgsAccess *acc, uint8_t byte,
                   CgsTcgViolationKind *kind);
    /*
     * Optional: an instruction that an SVM hypervisor could intercept; exit
     * codes are those of svm.h. Raises the platform's exception or returns.
     */
    void (*intercept)(CPUX86State *env, uint32_t exit_code, uint64_t param,
                      uintptr_t ra);
    /* Optional: -kernel was loaded. */
    void (*kernel_loader)(CgsTcgGuest *g,
                          const struct SevKernelLoaderContext *ctx,
                          Error **errp);
    /* Optional: INIT and SIPI; true if nothing is left to do. */
    bool (*vcpu_init)(X86CPU *cpu);
    bool (*vcpu_sipi)(X86CPU *cpu);
};

/* Non-NULL once the object exists; constant afterwards. */
extern CgsTcgGuest *cgs_guest;

static inline CgsTcgClass *cgs_class(void)
{
    return CGS_TCG_GUEST_GET_CLASS(cgs_guest);
}

/* pages.c: states */
uint8_t cgs_byte(hwaddr gpa);
static inline CgsTcgState cgs_state(hwaddr gpa)
{
    return cgs_byte(gpa) & CGS_STATE_MASK;
}
static inline bool cgs_is_ram(hwaddr gpa)
{
    return cgs_state(gpa) != CGS_TCG_STATE_NONE;
}
/*
 * Lock a range of pages (addresses a multiple of 4 KiB). False, and nothing is
 * locked, if another vCPU holds a page of it or if it exceeds the page array.
 * A range must be unlocked or committed without blocking in between.
 */
bool cgs_lock(hwaddr gpa, uint64_t npages, CgsTally *tally);
void cgs_unlock(hwaddr gpa, uint64_t npages);
/* Set a locked page's state and platform bits, keep its dirty bit, unlock. */
void cgs_commit(hwaddr gpa, CgsTcgState state, uint8_t bits);
/* Change platform bits; waits for pages that another vCPU has locked. */
void cgs_set_bits(hwaddr gpa, uint64_t npages, uint8_t set, uint8_t clear);
void cgs_count_pages(uint64_t n[4]);
/* In launch(): firmware's pages, private from the start. */
void cgs_launch_pages(hwaddr gpa, uint64_t size, uint8_t bits);

/* contents.c */
void cgs_zero(hwaddr gpa, uint64_t npages);     /* only what may be dirty */
void cgs_poison(hwaddr gpa, uint64_t npages);
/*
 * In launch(): firmware's pages; zeroes where buf is NULL. Nothing while a
 * saved guest is about to be loaded: its memory may be there already, mapped
 * from a file.
 */
void cgs_launch_write(hwaddr gpa, const void *buf, uint64_t size);
#define CGS_POISON 0xa5a55a5adeadc0deull

/*
 * ops.c: what guests do; result in the common terms, all bookkeeping done.
 * `code` gives the platform's status for the event; `before` is the state byte
 * of the first page as it was.
 */
typedef uint64_t CgsCode(CgsTcgResult r, unsigned level, uint8_t before);

CgsTcgResult cgs_accept(CPUX86State *env, const CgsAccept *op, CgsCode *code);
/* Private to pending (PVALIDATE with EDX = 0). */
CgsTcgResult cgs_rescind(CPUX86State *env, const CgsAccept *op, CgsCode *code);
/*
 * To shared, or from shared to pending (private pages stay private). Pages
 * without memory are passed over. *done: pages converted before the result.
 * Flushes all TLBs where it is needed.
 */
CgsTcgResult cgs_convert(CPUX86State *env, hwaddr gpa, uint64_t npages,
                         bool to_shared, uint8_t event_flags, uint64_t *done,
                         CgsCode *code);
/*
 * Acceptance found a page that is not private: a violation, after which a host
 * has made the whole range private. acc: what differs from the page's own, and
 * gives the range's first page. False if a page has no memory.
 */
bool cgs_make_private(CPUX86State *env, CgsAccess acc, uint64_t npages,
                      const char *detail);
void cgs_flush_all_tlbs(CPUX86State *env);

/* violation.c */
/* True if the access may go on; else raises, or stops the guest: no return. */
bool cgs_violation(CPUX86State *env, const CgsAccess *acc,
                   CgsTcgViolationKind kind, const char *detail);
void cgs_device_violation(hwaddr gpa, bool write);
/* The guest reported a fatal error: event, stop. */
G_NORETURN void cgs_fatal(CPUX86State *env, uint64_t code, const char *message,
                          bool has_gpa, uint64_t gpa);
/* RIP of the instruction being executed, without changing the CPU's state. */
uint64_t cgs_rip(CPUX86State *env, uintptr_t ra);

/* events.c */
void cgs_event(CPUX86State *env, CgsEvent *ev);  /* fills seq, time, vcpu, rip */
void cgs_events_open(CgsTcgGuest *g, Error **errp);
CgsTcgEventStats *cgs_events_flush(CgsTcgGuest *g);
uint64_t cgs_now(void);

/* stats.c */
void cgs_count_call(const char *interface, uint64_t number);
/* Count a call as not known, and say so in the event stream. */
void cgs_unknown_call(CPUX86State *env, const char *interface, uint64_t number);

/* faults.c: true, and counted, if this call is to show the defect */
bool cgs_fault(CPUX86State *env, CgsTcgFaultKind kind, hwaddr gpa,
               uint64_t npages);
/* The page that accept-lie is to spare, within a range; -1 for none. */
hwaddr cgs_fault_page(CPUX86State *env, CgsTcgFaultKind kind, hwaddr gpa,
                      uint64_t npages);

/* cost.c: let guest time pass */
void cgs_spend(CPUX86State *env, uint64_t ns);

/* dma.c */
void cgs_dma_write(hwaddr gpa, const void *buf, size_t len);

/* properties.c: properties that are fixed once the guest exists */
typedef struct CgsSwitch {
    const char *name, *description;
    size_t offset;              /* of a bool, in the object */
} CgsSwitch;
void cgs_class_switches(ObjectClass *oc, const CgsSwitch *switches, size_t n);

/* vmstate.c */
void cgs_vmstate_register(CgsTcgGuest *g);

#endif
