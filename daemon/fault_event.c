/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the first step of a fault: what the VMM's userfaultfd tells is read, and each fault
 * is found its region and unit. Called by the urgent thread's loop, and by placement when
 * an ioctl has to wait for an event (fault_path_wait_retry).
 *
 * Always holds: the removals and moves of what was read are noted before any fault of it
 * is looked at.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "core/clock.h"
#include "daemon/fault_path_parts.h"
#include "daemon/remap.h"
#include "daemon/removal.h"
#include "daemon/uffd.h"

#define BATCHES_A_WAKEUP 4
#define STRAYS_MAX 1000 /* faults in a row that nobody can tell the unit of */

bool fault_event_count(struct fault_path *fp, const struct uffd_msg *msg)
{
	bool minor = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR;

	stats_add(fp->placer.stats, faults, 1);
	if (minor)
		stats_add(fp->placer.stats, faults_minor, 1);
	return minor;
}

/* NULL: nothing that this lane serves is there. */
static const struct region *find_fault(const struct fault_path *fp, hva_t hva, uint64_t *ret_unit)
{
	const struct region *r;

	if (address_map_moved(fp->placer.addresses)) {
		if (!address_map_find_hva(fp->placer.addresses, hva, ret_unit))
			return NULL;
		return region_find_unit(fp->params.regions, *ret_unit);
	}
	r = region_find_hva(fp->params.regions, hva);
	if (!r || r->lane != fp->params.lane)
		return NULL;
	*ret_unit = region_unit_of_hva(r, hva);
	return r;
}

/*
 * Where memory can move, the event of a move may come after a fault in its new place, and a
 * fault in the old one be read after it has moved: let the thread look again. Nobody
 * knows what a page is that stays unknown; its thread waits, rather than reading zeros.
 */
static void take_stray(struct fault_path *fp, hva_t hva)
{
	hva_t page = {align_down(hva.addr, WIRE_PAGE_SIZE)};

	if (fp->placer.addresses && fp->n_strays++ < STRAYS_MAX)
		resolve_wake(fp->params.uffd, page, WIRE_PAGE_SIZE);
	else
		fault_complain(fp, "a page fault outside every region of its userfaultfd",
		               hva.addr);
}

static void take_fault(struct fault_path *fp, const struct uffd_msg *msg, uint64_t now_ns)
{
	hva_t hva = {msg->arg.pagefault.address};
	bool minor = fault_event_count(fp, msg);
	enum page_state s;
	uint64_t unit;
	const struct region *r = find_fault(fp, hva, &unit);

	if (!r) {
		take_stray(fp, hva);
		return;
	}
	fp->n_strays = 0;
	s = fault_request_unit(fp, r, unit, now_ns);
	if (page_state_is_final(s))
		placement_answer(&fp->placer, r, unit, s, minor);
}

/*
 * Nothing of the batch before may be followed again by the next daemon: first it goes, then
 * the count of what has been followed of it. Without moves there is nothing to be done.
 */
static void batch_begin(struct fault_path *fp)
{
	if (!fp->placer.addresses || address_map_followed(fp->placer.addresses) == 0)
		return;
	if (fp->params.events)
		memset(fp->params.events, 0, FAULT_BATCH * sizeof(*fp->params.events));
	atomic_signal_fence(memory_order_seq_cst);
	address_map_follow(fp->placer.addresses, 0);
}

/*
 * Removals and moves are noted before the lock is given up and before any fault
 * of the batch is looked at: the kernel may report a fault before the removal that
 * caused it. The rest of the batch is copied: placing may have to read again.
 */
static int read_batch(struct fault_path *fp, struct uffd_msg msgs[FAULT_BATCH])
{
	struct uffd_msg *into = fp->params.events ? fp->params.events : msgs;
	pthread_mutex_t *lock = fp->placer.remove_lock;
	int n;

	if (lock)
		pthread_mutex_lock(lock);
	batch_begin(fp);
	n = uffd_read(fp->params.uffd, into, FAULT_BATCH);
	for (int i = 0; i < n; i++)
		if (removal_is(&into[i]))
			removal_take(&fp->placer, fp->params.lane, &into[i]);
		else
			remap_take(&fp->placer, fp->params.lane, &into[i], (size_t)i);
	if (lock)
		pthread_mutex_unlock(lock);
	if (n > 0)
		atomic_fetch_add_explicit(fp->params.n_reads, 1, memory_order_relaxed);
	if (n > 0 && into != msgs)
		memcpy(msgs, into, (size_t)n * sizeof(*msgs));
	return n;
}

static int take_batch(struct fault_path *fp)
{
	struct uffd_msg msgs[FAULT_BATCH];
	int n = read_batch(fp, msgs);
	uint64_t now_ns = n > 0 ? clock_monotonic_ns() : 0;

	for (int i = 0; i < n; i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			take_fault(fp, &msgs[i], now_ns);
	fault_request_flush(fp);
	return n;
}

void fault_event_on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct fault_path *fp = arg;

	(void)fd;
	(void)what;
	for (int i = 0; i < BATCHES_A_WAKEUP; i++)
		if (take_batch(fp) < FAULT_BATCH)
			break;
}

bool fault_path_wait_retry(struct fault_path *fp, bool changing)
{
	struct pollfd fds[] = {
	        {.fd = fp->params.stop_fd, .events = POLLIN},
	        {.fd = changing ? fp->params.uffd : -1, .events = POLLIN},
	};

	/*
	 * The event that announces the change may have been read already, and the
	 * kernel tells neither when the change is done nor when memory is free:
	 * look again after a moment.
	 */
	if (poll(fds, ARRAY_SIZE(fds), changing ? 1 : 10) < 0 && errno != EINTR)
		return false;
	if (fds[0].revents)
		return false;
	if (changing)
		take_batch(fp);
	return true;
}
