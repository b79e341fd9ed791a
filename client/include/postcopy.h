/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libpostcopy: hands a VMM's guest memory to postcopyd (on the host that
 * receives a guest) and to postcopy-sourced (on the host it leaves).
 *
 * Where to start: example_vmm.c, a whole VMM for both sides, is with this header.
 *
 * Conventions of every function
 *
 *   Errors   A function that returns int gives 0 (or a value >= 0 that its
 *            comment names) or a negative errno, and does not touch errno.
 *            Where there are error_text and error_size, a failure also leaves
 *            one sentence there: what was wrong and what to do about it, NUL
 *            terminated and cut at error_size bytes (384 hold every text).
 *            error_text may be NULL. Outputs are written on success only.
 *   Units    Addresses and lengths are bytes. They are multiples of the
 *            region's page size unless a comment says otherwise. Timeouts are
 *            milliseconds.
 *   Memory   The library copies what it is given; the caller may free it when
 *            the call has returned. File descriptors stay the caller's, too:
 *            the library makes duplicates (close-on-exec) of what it keeps.
 *   Threads  All functions but postcopy_close() may be called from any thread
 *            at any time, also on the same handle. None is async-signal-safe:
 *            a SIGBUS handler notes the address, and a thread that is not
 *            inside a handler calls postcopy_report_poison(). The library
 *            starts no threads but the one that postcopy_collapse() is asked
 *            for and those of an export with POSTCOPY_EXPORT_INBOUND, installs
 *            no signal handlers and raises no SIGPIPE. After fork() the child
 *            must not use a handle.
 *   Growth   reserved fields must be zero (zero the whole struct first), and
 *            unknown flag bits are refused with -EINVAL: a field of a later
 *            version is valid when its flag is set.
 *
 * Over a restart (or crash) of a daemon whose service manager keeps its descriptors,
 * as systemd does for postcopyd, the next daemon takes the connection over, and a
 * VMM need not do anything:
 *
 *   - the guest's faults wait until the next daemon serves them;
 *   - the handle stays connected, and no call fails. postcopy_wait() goes on
 *     waiting; postcopy_process() finds a change, for the next daemon tells the
 *     state as it took it over ("postcopy-paused" as a rule, until it has the
 *     source again) with a text that says why;
 *   - a call that waits for an answer asks the next daemon by itself: an attach
 *     or export without an answer was accepted, everything else is sent again.
 *     Its timeout counts from the call on, so that it may end with -ETIMEDOUT
 *     when the restart takes longer: what it asked may have been done then.
 *
 * Where nothing keeps the descriptors, the connection ends with the daemon
 * (-ECONNRESET): a destination's guest waits, for the uffds are open here.
 *
 * The destination, in short:
 *
 *   int uffd = postcopy_uffd_open(0);
 *   ... map the guest's memory, but do not touch it ...
 *   postcopy_attach(&params, &handle, text, sizeof(text));
 *   ... load the device state, start the vCPUs ...
 *   postcopy_wait(handle, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), -1);
 *   postcopy_collapse(handle, text, sizeof(text));  (if it shall have huge pages)
 *   postcopy_collapse_wait(handle, -1);
 *   postcopy_close(handle, 0);
 *
 * The source:
 *
 *   postcopy_export(&params, &handle, text, sizeof(text));
 *   ... stop the vCPUs, save the device state ...
 *   postcopy_freeze(handle, text, sizeof(text));
 *   postcopy_wait(handle, POSTCOPY_STATE_BIT(POSTCOPY_STATE_RELEASED), -1);
 *   postcopy_close(handle, 0);
 */
#ifndef POSTCOPY_H
#define POSTCOPY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#define POSTCOPY_PUBLIC __attribute__((visibility("default")))
#else
#define POSTCOPY_PUBLIC
#endif

/* Where the daemons listen when a socket path is NULL. */
#define POSTCOPY_ATTACH_SOCKET "/run/postcopyd/attach.sock"
#define POSTCOPY_EXPORT_SOCKET "/run/postcopy-sourced/export.sock"

#define POSTCOPY_UFFDS_MAX 16    /* in one attach */
#define POSTCOPY_REGIONS_MAX 512 /* in one attach or export */
#define POSTCOPY_FDS_MAX 64      /* uffds and different memory files together */
#define POSTCOPY_RANGES_MAX 4096 /* in one postcopy_report_poison() */
#define POSTCOPY_NAME_MAX 64     /* of a region, with the final NUL */
#define POSTCOPY_TOKEN_MIN 16    /* bytes */
#define POSTCOPY_TOKEN_MAX 64
#define POSTCOPY_IDENTITY_MAX 256 /* of a peer, with the final NUL */
#define POSTCOPY_TEXT_MAX 512     /* of a state's explanation, with the final NUL */
#define POSTCOPY_UUID_TEXT_LEN 37 /* with the final NUL */

/* A migration (destination) or an export (source). */
struct postcopy;

/*
 * ------------------------------------------------------------------ states --
 * The names, which postcopy_strstate() gives, are QEMU's where QEMU has one.
 */
enum postcopy_state {
	POSTCOPY_STATE_UNKNOWN = 0, /* a name that only a newer daemon knows */

	/* Of a migration, on the destination. */
	POSTCOPY_STATE_SETUP = 1,           /* "setup": connecting to the source */
	POSTCOPY_STATE_ACTIVE = 2,          /* "active": attached; the source is not frozen yet */
	POSTCOPY_STATE_POSTCOPY_ACTIVE = 3, /* "postcopy-active": pages are being served */
	POSTCOPY_STATE_POSTCOPY_PAUSED =
	        4, /* "postcopy-paused": link to the source lost; faults wait */
	POSTCOPY_STATE_POSTCOPY_RECOVER = 5, /* "postcopy-recover": connecting again */
	POSTCOPY_STATE_COMPLETED = 6, /* "completed" (final): every page is placed or poisoned */
	POSTCOPY_STATE_FAILED = 7,    /* "failed" (final), migration or export */
	POSTCOPY_STATE_CANCELLED = 8, /* "cancelled" (final) */

	/* Of an export, on the source. */
	POSTCOPY_STATE_EXPORTED = 16, /* "exported": the guest may still run here */
	POSTCOPY_STATE_FROZEN =
	        17, /* "frozen": the guest stands still; no destination depends on it (yet, or any more) */
	POSTCOPY_STATE_SERVING = 18,  /* "serving": a destination takes pages */
	POSTCOPY_STATE_RELEASED = 19, /* "released" (final): the destination has everything */
	POSTCOPY_STATE_WITHDRAWN = 20 /* "withdrawn" (final) */
};

#define POSTCOPY_STATE_BIT(state) (UINT32_C(1) << (state))
#define POSTCOPY_STATES_FINAL                           \
	(POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED) | \
	 POSTCOPY_STATE_BIT(POSTCOPY_STATE_FAILED) |    \
	 POSTCOPY_STATE_BIT(POSTCOPY_STATE_CANCELLED) | \
	 POSTCOPY_STATE_BIT(POSTCOPY_STATE_RELEASED) |  \
	 POSTCOPY_STATE_BIT(POSTCOPY_STATE_WITHDRAWN))

/* The name above, "unknown" for anything else. Static storage. */
POSTCOPY_PUBLIC const char *postcopy_strstate(enum postcopy_state state);

/*
 * ----------------------------------------------------------------- regions --
 * One table serves both sides: a VMM describes its guest's memory once.
 */
enum postcopy_backing {
	POSTCOPY_BACKING_ANONYMOUS = 1, /* private anonymous mapping */
	POSTCOPY_BACKING_MEMFD = 2,     /* shared mapping of a memfd or a file on tmpfs */
	POSTCOPY_BACKING_HUGETLB = 3    /* shared mapping of hugetlbfs, or anonymous MAP_HUGETLB */
};

enum postcopy_mode {
	POSTCOPY_MODE_MISSING = 1,
	/*
	 * Pages are written through memory_fd and then mapped by UFFDIO_CONTINUE:
	 * another process that maps the file sees them as well. Needs
	 * memory_fd and a shared mapping. The daemon registers MISSING beside
	 * MINOR, because with MINOR alone the first touch of a hole reads zeros
	 * without any event.
	 */
	POSTCOPY_MODE_MINOR = 2
};

/*
 * The VMM has called UFFDIO_API and UFFDIO_REGISTER itself (attach). Without
 * this flag the region's uffd must be raw: created, and nothing else done to
 * it; the daemon then negotiates the features and registers the range. Regions
 * of one uffd must agree about it.
 */
#define POSTCOPY_REGION_REGISTERED (UINT32_C(1) << 0)
/*
 * Every page of the file has been allocated (fallocate): a REGISTERED region
 * in mode MINOR needs this, or MISSING registered beside MINOR (attach).
 */
#define POSTCOPY_REGION_FULLY_ALLOCATED (UINT32_C(1) << 1)

struct postcopy_region {
	/*
	 * Not NULL, 1..63 bytes, printable ASCII without spaces, unique in the
	 * table, and the same on both hosts ("ram0", "pc.ram").
	 */
	const char *name;
	/*
	 * Where the guest sees it: a multiple of page_size, the same on both
	 * hosts. Regions do not overlap, here or in the VMM.
	 */
	uint64_t guest_physical_address;
	/*
	 * Where this process maps it, a multiple of page_size. An export needs it
	 * only for memory without memory_fd.
	 */
	void *address;
	/* Bytes, a multiple of page_size, not 0, the same on both hosts. */
	uint64_t length;
	/*
	 * Bytes, a power of two: 4096 for anonymous and memfd memory (also with
	 * transparent huge pages), the huge page size for hugetlb (at most
	 * 1 GiB, for which the daemon takes twice as much memory while it works).
	 */
	uint64_t page_size;
	enum postcopy_backing backing;
	enum postcopy_mode mode; /* attach; an export ignores it */
	/* Attach: index into the parameters' uffds; POSTCOPY_ATTACH_SPLIT ignores it. */
	uint32_t uffd;
	/*
	 * The memory file, or -1 (NOT 0) for none. Attach: needed in mode MINOR; in
	 * mode MISSING by those who map it beside the VMM (POSTCOPY_ATTACH_MAPPING);
	 * ignored for anonymous memory. Export: -1 means "read it from this process": the library
	 * opens /proc/self/mem read-only and hands that over, so the agent needs
	 * no ptrace right; the process must then live until the export is final.
	 */
	int memory_fd;
	uint64_t memory_offset; /* bytes: where the region starts in memory_fd */
	uint32_t flags;         /* POSTCOPY_REGION_ */
	uint32_t reserved32;    /* 0 */
	uint64_t reserved[4];   /* 0 */
};

/*
 * ------------------------------------------------------------- destination --
 */

/*
 * Open a raw userfaultfd, close-on-exec and non-blocking, which sees also
 * faults that the kernel takes for KVM and virtio: by /dev/userfaultfd, and
 * where that is not there or not permitted, by the system call. flags must be 0.
 * Returns the descriptor, the caller's to close, or
 *   -EINVAL  flags is not 0
 *   -EPERM, -EACCES  neither way is permitted: give this user access to
 *            /dev/userfaultfd, or set sysctl vm.unprivileged_userfaultfd=1, or
 *            give the VMM CAP_SYS_PTRACE; `postcopyctl probe` tells which
 *   -ENOSYS  the kernel has no userfaultfd (CONFIG_USERFAULTFD)
 *   -EMFILE, -ENFILE, -ENOMEM  out of descriptors or memory
 */
POSTCOPY_PUBLIC int postcopy_uffd_open(unsigned int flags);

/*
 * Whether this kernel has UFFDIO_POISON: asked with a scratch userfaultfd, not
 * guessed from the version. 1 yes, 0 no, or an error of postcopy_uffd_open().
 * Without it postcopyd cannot place a poisoned page.
 */
POSTCOPY_PUBLIC int postcopy_poison_supported(void);

/*
 * This process is not the VMM: it maps memory that the VMM of the migration has attached
 * (a vhost-user back end). See postcopy_attach().
 */
#define POSTCOPY_ATTACH_MAPPING (UINT32_C(1) << 0)

/*
 * Split the regions over all uffds (postcopy_attach()). For a guest whose faults
 * are too many for one userfaultfd, one thread of the daemon and one connection:
 * some tens of vCPUs that fault at once, or a path that loses packets. Each uffd
 * takes two threads of the daemon and two of the agent: on hosts that have no CPUs
 * for these it makes the guest slower. The source needs to know nothing of it.
 *
 * The regions are passed whole, their uffd is ignored, and the uffds must be raw.
 * Each uffd gets the same share of the memory in stripes that alternate, 64 MiB
 * or 1/128 of the memory long, whichever is more; those of a small guest are as
 * long as its shares allow. Regions are cut at addresses that are multiples of
 * 2 MiB and of page_size, so that no huge page is divided; the kernel divides the
 * mapping there until the migration has completed, and mremap() over such a border
 * fails (EFAULT). All else is as without the flag: names, reports and
 * postcopy_collapse() know whole regions.
 *   -EINVAL  also when a region is POSTCOPY_REGION_REGISTERED, or when there are
 *            more uffds than pieces of 2 MiB (or a page_size) to be had; and from
 *            a daemon that knows no pieces, to which two regions have one name
 * Not with POSTCOPY_ATTACH_MAPPING; and a further mapping over several of the pieces
 * is refused, for its uffd would be more than one lane's: a guest with vhost-user
 * back ends that attach is not split.
 */
#define POSTCOPY_ATTACH_SPLIT (UINT32_C(1) << 1)

struct postcopy_attach_params {
	const char *socket_path;  /* NULL: POSTCOPY_ATTACH_SOCKET; "@name": abstract */
	uint8_t migration_id[16]; /* as in `postcopyctl start`; see postcopy_uuid_parse() */
	const void *token;        /* the migration's secret */
	size_t token_len;         /* bytes, POSTCOPY_TOKEN_MIN..POSTCOPY_TOKEN_MAX */
	const int *uffds;         /* userfaultfds of this process */
	size_t n_uffds;           /* 1..POSTCOPY_UFFDS_MAX; several share a big guest's faults */
	const struct postcopy_region *regions;
	size_t n_regions;     /* 1..POSTCOPY_REGIONS_MAX */
	int timeout_ms;       /* for the daemon's answer; 0: 10000, negative: for ever */
	uint32_t flags;       /* POSTCOPY_ATTACH_ */
	uint64_t reserved[4]; /* 0 */
};

/*
 * Hand the guest's memory to postcopyd. Call it before anything touches that
 * memory, which must be mapped and hold no page yet (no -mem-prealloc, no
 * MAP_POPULATE: such pages would be stale). Returns when the daemon has
 * accepted; from then on touching a missing page waits until the source has
 * sent it, and touching a poisoned one raises SIGBUS (in KVM_RUN: the VMM
 * injects a machine check).
 *
 * The handle keeps duplicates of the uffds: when the last reference to a uffd
 * closes, the kernel turns missing pages into zeros without a word.
 *
 * Until the migration has ended the memory may be discarded (MADV_DONTNEED,
 * MADV_REMOVE: it reads zeros then, unless it is lost) and moved (mremap()), and
 * both wait until the daemon has taken note; a uffd of which the VMM does the
 * handshake needs the features UFFD_FEATURE_EVENT_REMOVE and _EVENT_REMAP for
 * that: without the latter missing pages of moved memory silently become zeros.
 * _EVENT_FORK and _SIGBUS are refused.
 *
 * The regions are marked MADV_DONTFORK: a child process would read zeros there,
 * and in shared memory make zeros of missing pages for the guest, too.
 *
 * Memfd regions are marked MADV_NOHUGEPAGE, and must stay so while they hold
 * poisoned pages, after the end of the migration, too: collapsing shared memory
 * into a huge page makes the kernel forget them. postcopy_collapse() gives huge
 * pages back where nothing is poisoned.
 *
 * With POSTCOPY_ATTACH_MAPPING the memory is what the VMM of this migration has
 * attached, mapped by a second process, all of it or parts, in any pieces. Which
 * part it is memory_fd and memory_offset tell: the VMM must have given them when it
 * attached, in mode MISSING, too. Page sizes and modes are the VMM's; names and
 * guest-physical addresses are for messages only (but if the daemon has been
 * started again since the migration ended, they are all it knows: best use the
 * VMM's). Call it before this process touches the mapping: a hole that
 * is touched before would become zeros for the guest, too. Poison is a mark in one
 * process's page tables: a page that is lost raises SIGBUS here as well, from the
 * attach on. Each uffd must be raw, or have no events switched on, and stand for
 * regions that the VMM attached with one uffd, too. Up to 8 processes of a guest
 * may do so. When everything has arrived already (also after the end, as long as
 * the daemon shows the migration), what is lost is marked, and the state is final
 * at once. Discarding a page here (MADV_DONTNEED) drops its mark; until the state
 * is final it is set again.
 *
 *   -EINVAL  a parameter breaks its contract above; the text names it. Also
 *            when the daemon finds fault with the regions, for instance when
 *            they differ from the source's
 *   -EAGAIN  MAPPING: the VMM has not attached yet; try again after it
 *   -EBADF   a uffd or memory_fd is not an open descriptor
 *   -ENOENT, -ECONNREFUSED, -EACCES  no daemon at socket_path, or not for this
 *            user
 *   -ENOKEY  the daemon does not know the migration: `postcopyctl start` first
 *   -EKEYREJECTED  the token is wrong
 *   -EBUSY   the migration has been attached already
 *   -ESHUTDOWN  the daemon is being stopped, and waits for other guests only
 *   -ENOSPC  what the daemon keeps for its restart has no room for this guest;
 *            MAPPING: too many processes
 *   -ENOTSUP the kernel has no UFFDIO_POISON and the migration's policy needs it
 *   -EPROTO  what came back is not the attach protocol
 *   -ECONNRESET  the daemon closed the connection without an answer, or died
 *            before it had accepted: as if never attached
 *   -ETIMEDOUT  no answer in time; the attach did not happen, or ends with the
 *            connection, which is closed
 *   -EMFILE, -ENFILE, -ENOMEM
 * The daemon may refuse with other errnos; its text is passed on.
 */
POSTCOPY_PUBLIC int postcopy_attach(const struct postcopy_attach_params *params,
                                    struct postcopy **ret_handle, char *error_text,
                                    size_t error_size);

struct postcopy_range {
	uint64_t guest_physical_address; /* bytes */
	uint64_t length;                 /* bytes, not 0 */
};

/*
 * What the guest has lost here: all poisoned memory of this migration, sorted
 * by guest-physical address, ranges that touch joined, multiples of 4096. The
 * daemon is asked, from the attach until the handle is closed; the list can
 * grow until the state is final. What is lost stays lost when the guest moves on
 * from here: export it with POSTCOPY_EXPORT_INBOUND, which sees to that, or,
 * when this handle is closed by then, hand the list to postcopy_report_poison()
 * of the next export (at most POSTCOPY_RANGES_MAX ranges a call), before the
 * freeze.
 *
 * At most max ranges are written (ranges may be NULL when max is 0), and
 * *ret_n is how many there are: if that is more than max, call again with more
 * room.
 *   -EINVAL  the handle is a source's
 *   -ENOTCONN, -ECONNRESET  the daemon has gone, and its list with this
 *            connection: `postcopyctl show` on a daemon that lives again may
 *            have it
 *   -ETIMEDOUT  no answer; ask again
 *   -EPROTO, -ENOMEM
 */
POSTCOPY_PUBLIC int postcopy_list_poison(struct postcopy *handle, struct postcopy_range *ranges,
                                         size_t max, size_t *ret_n, char *error_text,
                                         size_t error_size);

struct postcopy_collapse_progress {
	int running;    /* 1: the thread is at work */
	int done;       /* 1: it has gone over everything (0 after a stop) */
	int last_errno; /* of the latest huge page that failed, positive; 0: none */
	int reserved32;
	uint64_t bytes_total;          /* whole, aligned huge pages in regions of 4096 byte pages */
	uint64_t bytes_collapsed;      /* huge now, or were already */
	uint64_t bytes_skipped_poison; /* left alone: a page in them is poisoned */
	uint64_t bytes_unsuitable;     /* the kernel says EINVAL, see postcopy_collapse() */
	uint64_t bytes_failed;         /* no free huge page, pinned pages; try again later */
	uint64_t reserved[4];
};

/*
 * Give the guest its huge pages back, once the state is "completed": memory
 * came in pieces of 4096 bytes, which costs the guest translation misses. Asks
 * the daemon what is poisoned, starts one thread, which takes no signals and
 * runs at nice 19 in the ordinary scheduling class, on the CPUs of the calling
 * thread, and returns; the guest may run meanwhile. A huge page that holds a poisoned page is left out,
 * so exactly what was lost stays lost. The regions must stay mapped until the
 * thread has ended.
 *
 * It calls madvise(MADV_COLLAPSE) for each aligned huge page (2 MiB on x86-64)
 * of the anonymous and memfd regions; hugetlb regions need none. Linux 6.1 and
 * later have it for both kinds (tried on 6.1, 6.12 and 6.18), also where
 * transparent_hugepage/enabled is madvise and shmem_enabled is never. Memfd regions lose the MADV_NOHUGEPAGE of
 * postcopy_attach() for MADV_HUGEPAGE where nothing is poisoned; each poisoned
 * huge page between two healthy ones costs two mappings, so at most an eighth of
 * vm.max_map_count is used, and the rest counts as failed with ENOMEM. The
 * same part of a file must not be mapped by two regions.
 *
 * Unsuitable, by the kernel's EINVAL, is what has nothing in it (never written,
 * all zeros, or discarded); memory that the VMM marked MADV_NOHUGEPAGE itself,
 * or prctl(PR_SET_THP_DISABLE); and a file whose offset and address differ
 * modulo the huge page size. A page that was discarded since still reads as
 * zeros afterwards, but takes memory again if its huge page is collapsed: call
 * this before the balloon inflates, or accept it.
 *
 * May be called again after it has ended, for what failed.
 *   -EINVAL  the handle is a source's
 *   -EBUSY   the migration has not completed, or a collapse is running
 *   -ENOTSUP the kernel has no MADV_COLLAPSE (before Linux 6.1, or no
 *            transparent huge pages); the guest runs on with small pages
 *   -ENOTCONN, -ECONNRESET, -ETIMEDOUT, -EPROTO  the daemon cannot be asked what
 *            is poisoned, as for postcopy_list_poison(); nothing was done
 *   -ENOMEM, -EAGAIN  no memory, or no thread
 */
POSTCOPY_PUBLIC int postcopy_collapse(struct postcopy *handle, char *error_text, size_t error_size);

/* How far it is; zeros before the first. Never waits. Always 0. */
POSTCOPY_PUBLIC int postcopy_collapse_progress(struct postcopy *handle,
                                               struct postcopy_collapse_progress *ret_progress);

/*
 * Wait until the thread has ended. timeout_ms: 0 looks only, negative waits for
 * ever.
 *   0        it has ended; progress.done tells whether it went over everything
 *   -ENOENT  there was no postcopy_collapse()
 *   -ETIMEDOUT
 */
POSTCOPY_PUBLIC int postcopy_collapse_wait(struct postcopy *handle, int timeout_ms);

/*
 * End it early, and wait until it has ended: within a huge page, some
 * milliseconds. What is huge stays so. 0, also if none is running.
 */
POSTCOPY_PUBLIC int postcopy_collapse_stop(struct postcopy *handle);

/*
 * ------------------------------------------------------------------ source --
 */
/*
 * The memory is itself still on its way to this process, by the migration `inbound`,
 * or has been, and pages of it may be lost: see postcopy_export().
 */
#define POSTCOPY_EXPORT_INBOUND (UINT32_C(1) << 0)

struct postcopy_export_params {
	const char *socket_path; /* NULL: POSTCOPY_EXPORT_SOCKET; "@name": abstract */
	uint8_t migration_id[16];
	const void *token; /* the same as the destination's */
	size_t token_len;
	const char *peer_identity;             /* the name (SAN) in the destination's certificate */
	const struct postcopy_region *regions; /* mode and uffd are ignored */
	size_t n_regions;                      /* 1..POSTCOPY_REGIONS_MAX */
	int timeout_ms;           /* for the agent's answers; 0: 10000, negative: for ever */
	uint32_t flags;           /* POSTCOPY_EXPORT_ */
	struct postcopy *inbound; /* with POSTCOPY_EXPORT_INBOUND; else NULL */
	uint64_t reserved[3];     /* 0 */
};

/*
 * Hand the guest's memory to postcopy-sourced. The guest may go on running:
 * nothing is served before postcopy_freeze(). Errors as for postcopy_attach(),
 * and
 *   -EEXIST  this migration is exported already
 *
 * A guest that came here by a migration and moves on is exported with
 * POSTCOPY_EXPORT_INBOUND and that migration's handle, in whatever state it is:
 *
 *   - Each region has the address that was attached, also where the agent reads
 *     memory_fd. Regions of memory that came otherwise may be among them. Shared
 *     memory has its memory_fd: read through the process, a page whose mapping the
 *     kernel has reclaimed would be taken for lost.
 *   - Pages that are not here yet are fetched from the first host when the next
 *     host's guest waits for them; others follow when they have come. While the
 *     first host is out of reach, what is here is served, and the rest waits.
 *   - What is lost here is lost on the next host: the library lists it itself
 *     (no postcopy_report_poison() for what postcopy_list_poison() has).
 *   - Should the inbound migration fail or be cancelled, or its daemon go for good
 *     with the connection, then what has not come by then is lost for the next
 *     host: its guest gets a machine check there, never zeros.
 *   - The inbound handle must stay open until the export's is closed:
 *     postcopy_close() of it gives -EBUSY. With POSTCOPY_CLOSE_FORCE it ends the
 *     export's connection first, and the export fails unless everything was here.
 *   - Its uffds stay as they are, and nothing may discard the memory.
 *   - When the export is released, wait for the inbound migration's "completed" and
 *     close both: so the first host hears that its memory is not needed any more.
 *   - The library starts two threads, and up to 16 more (32, if the inbound
 *     migration fails) that wait for pages; they take no signals. postcopy_close()
 *     of the export waits for the first two: for an answer that the inbound
 *     migration's daemon owes, at most that handle's timeout_ms. A thread that
 *     waits for a page ends when the page comes, or the last uffd is closed, and
 *     reads that address once more: do not map other memory there before that.
 *
 * Further errors of such an export:
 *   -ENOTSUP the kernel has no MADV_POPULATE_READ (before Linux 5.14)
 *   -ENOENT, -EACCES  /proc/self/pagemap cannot be read, which tells what is here
 *   -EBADMSG, -EPROTO  the agent is older than this and does not know such exports
 */
POSTCOPY_PUBLIC int postcopy_export(const struct postcopy_export_params *params,
                                    struct postcopy **ret_handle, char *error_text,
                                    size_t error_size);

/*
 * Say that the guest stands still: no vCPU runs, no device writes its memory,
 * and this stays so unless postcopy_withdraw() succeeds. Pages are served from
 * now on. Freezing twice is no error.
 *   -EINVAL  the handle is a destination's
 *   -ENOTCONN  the agent has gone; -ECONNRESET: it went during the call
 *   -ETIMEDOUT  no answer; the export may be frozen nevertheless
 */
POSTCOPY_PUBLIC int postcopy_freeze(struct postcopy *handle, char *error_text, size_t error_size);

/*
 * Say that guest memory has been lost to memory errors, before or after the
 * freeze. Addresses and lengths are multiples of 4096; a hugetlb page is lost
 * as a whole, report it so. Reporting a page twice is no error. A vCPU thread
 * may call it after a SIGBUS made it leave KVM_RUN, but not from within the
 * signal handler: it takes locks, allocates, and waits for the agent's answer.
 *   -EINVAL  unaligned, empty or outside every region (nothing was taken
 *            over), or the handle is a destination's
 *   -E2BIG   more than POSTCOPY_RANGES_MAX ranges: split them over several calls
 *   -ENOTCONN, -ECONNRESET, -ETIMEDOUT  as above; say it again
 */
POSTCOPY_PUBLIC int postcopy_report_poison(struct postcopy *handle,
                                           const struct postcopy_range *ranges, size_t n_ranges,
                                           char *error_text, size_t error_size);

/*
 * End the export: the guest stays here. Non-zero force: although a destination
 * has begun to take pages; what it does not have yet is lost for it.
 *   -EBUSY   a destination depends on the export, and force is 0
 *   -EINVAL, -ENOTCONN, -ECONNRESET, -ETIMEDOUT  as for postcopy_freeze()
 */
POSTCOPY_PUBLIC int postcopy_withdraw(struct postcopy *handle, int force, char *error_text,
                                      size_t error_size);

/*
 * -------------------------------------------------------------- both sides --
 */
struct postcopy_status {
	enum postcopy_state state;
	int final;                    /* 1: the state will not change any more */
	int connected;                /* 0: the daemon has gone */
	char name[32];                /* the state's name as the daemon gave it */
	char text[POSTCOPY_TEXT_MAX]; /* why; may be empty */
	uint64_t reserved[4];
};

/*
 * The last known state. It never waits, and reads nothing from the socket:
 * that is what postcopy_process() and postcopy_wait() do. Always 0.
 */
POSTCOPY_PUBLIC int postcopy_get_status(struct postcopy *handle,
                                        struct postcopy_status *ret_status);

/* Only the state, otherwise the same. */
POSTCOPY_PUBLIC enum postcopy_state postcopy_get_state(struct postcopy *handle);

/*
 * Wait until the state is, or during the call has been, one of states (a mask
 * of POSTCOPY_STATE_BIT()s). To wait for any change, pass the complement of the
 * current state's bit. timeout_ms: 0 looks only, negative waits for ever.
 *   0        the state was reached
 *   -EINVAL  states is 0
 *   -ECANCELED  a final state was reached that is not in states
 *   -ETIMEDOUT
 *   -ECONNRESET  the daemon has gone for good, with this connection (see the
 *            head of this file). A destination's missing pages stay missing and
 *            faults wait, for the uffds are still open here.
 */
POSTCOPY_PUBLIC int postcopy_wait(struct postcopy *handle, uint32_t states, int timeout_ms);

/*
 * For event loops: a descriptor that polls readable (POLLIN) when
 * postcopy_process() has something to do, also when a call in another thread
 * has taken a change of state off the socket. Owned by the handle; do not
 * read, write or close it.
 */
POSTCOPY_PUBLIC int postcopy_fd(struct postcopy *handle);

/*
 * Take in what has arrived, without waiting.
 *   1        the state has changed since the last postcopy_process()
 *   0        it has not
 *   -ECONNRESET  the daemon has gone (said each time)
 *   -EPROTO  it sent something that is not the attach protocol; connection closed
 */
POSTCOPY_PUBLIC int postcopy_process(struct postcopy *handle);

/* Release the handle although guest memory would be lost by it. */
#define POSTCOPY_CLOSE_FORCE (UINT32_C(1) << 0)

/*
 * Close the connection and the duplicates of the uffds, stop a collapse, and
 * free the handle.
 * No other call on the handle may be running. NULL is permitted. Without FORCE
 * it refuses, and the handle stays valid, when that would harm the guest:
 *   -EBUSY   destination: the migration has not completed, and a thread that
 *            touches a missing page would read zeros as soon as the last uffd
 *            is closed. Use FORCE only when no thread will touch the memory
 *            again. Also while an export with POSTCOPY_EXPORT_INBOUND uses it.
 *            Source: frozen or serving, and the agent is there; use
 *            postcopy_withdraw(), or FORCE to give the guest up
 *   -EINVAL  unknown flags
 * With FORCE it is always successful (flags being valid).
 */
POSTCOPY_PUBLIC int postcopy_close(struct postcopy *handle, uint32_t flags);

/*
 * "123e4567-e89b-12d3-a456-426614174000" (exactly this form, either case) to
 * 16 bytes. 0 or -EINVAL.
 */
POSTCOPY_PUBLIC int postcopy_uuid_parse(const char *text, uint8_t ret_id[16]);

#ifdef __cplusplus
}
#endif

#endif
