/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: answer page faults. Runs on a lane's urgent thread; reads from top to
 * bottom as a fault travels:
 *
 *   out:  uffd_read -> region_find -> in-flight add -> request -> channel
 *   back: channel -> decode -> in-flight match -> placement (claim, ioctl, set)
 *
 * Always holds: a unit in the state REQUESTED has an entry in the in-flight
 * table, or is about to be placed by the stream; so every fault that was read
 * is answered, whatever happens to the connection.
 */
#include "daemon/fault_path.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "core/clock.h"
#include "daemon/assembly.h"
#include "daemon/remap.h"
#include "daemon/removal.h"
#include "daemon/uffd.h"

#define IN_FLIGHT_MAX 4096
#define HUGE_OUTSTANDING_MAX 8 /* huge pages asked for at a time: each has a buffer */
#define HUGE_OUTSTANDING_BYTES (UINT64_C(32) << 20) /* of these buffers, but for one */
/* A page of 1 GiB is asked for in such pieces, so that the faults beside it need not wait for it. */
#define PIECE_PAGES 1024U /* the most that a source takes in one PageRequest */
#define PIECES_AHEAD 2    /* on their way at a time, so that the source always has one to send */
#define BATCHES_A_WAKEUP 4
#define STRAYS_MAX 1000      /* faults in a row that nobody can tell the unit of */
#define REQUEST_BYTES_MAX 64 /* one encoded PageRequest of one run */

/* A further mapping whose faults are read; the mapping is the placer's set's. */
struct mapped {
	struct fault_path *fp;
	struct mapping *mapping;
	struct event *event;
};

struct fault_path {
	struct fault_path_params params;
	struct placer placer;
	struct in_flight *in_flight;
	struct event *uffd_event;
	struct mapped *mapped[MAPPINGS_MAX]; /* by the mapping's id; NULL: none */
	struct source_link *link;
	bool complained;
	unsigned n_strays; /* since the last fault with a unit */
	bool serving;      /* connected and the source is frozen: requests may go out */
	struct assembly *assemblies[HUGE_OUTSTANDING_MAX]; /* free ones first .. n_free - 1 */
	size_t n_free_assemblies;
	size_t n_unsent; /* entries that wait for a connection or a free assembly */
	uint8_t batch[FAULT_BATCH * REQUEST_BYTES_MAX];
	size_t batch_len;
};

static void complain(struct fault_path *fp, const char *what, uint64_t address)
{
	struct error e;

	if (fp->complained)
		return; /* a VMM must not be able to fill the log */
	fp->complained = true;
	error_set(&e, -EPROTO, "%s (0x%" PRIx64 "); ignoring this and any like it", what, address);
	fp->params.callbacks->on_warning(&e, fp->params.user);
}

/* ---- out: requests ---- */

static void batch_flush(struct fault_path *fp)
{
	if (fp->batch_len == 0)
		return;
	/*
	 * Cannot fail for want of room: all of the table's requests fit the out
	 * buffer. A link that is down reports itself, and all is asked again.
	 */
	if (fp->link)
		(void)source_link_send_raw(fp->link, fp->batch, fp->batch_len);
	fp->batch_len = 0;
}

/* A buffer for the pieces of a huge page; -EBUSY when all are in use. */
static int assembly_take(struct fault_path *fp, const struct region *r, struct in_flight_entry *e)
{
	struct assembly *a;

	if (fp->n_free_assemblies == 0)
		return -EBUSY;
	a = fp->assemblies[--fp->n_free_assemblies];
	fp->assemblies[fp->n_free_assemblies] = NULL;
	assembly_start(a, e->unit, region_unit_pages(r));
	e->assembly = a;
	return 0;
}

static void assembly_give_back(struct fault_path *fp, struct in_flight_entry *e)
{
	if (!e->assembly)
		return;
	assembly_clear(e->assembly);
	fp->assemblies[fp->n_free_assemblies++] = e->assembly;
	e->assembly = NULL;
}

static void request_encode(struct fault_path *fp, uint64_t id, const struct page_run *run)
{
	struct page_message m = {.type = PAGE_MESSAGE_PAGE_REQUEST,
	                         .page_request = {.id = id, .runs = {run, 1}}};
	ssize_t n;

	if (sizeof(fp->batch) - fp->batch_len < REQUEST_BYTES_MAX)
		batch_flush(fp);
	n = page_message_encode(&m, fp->batch + fp->batch_len, sizeof(fp->batch) - fp->batch_len);
	if (n < 0) {
		complain(fp, "cannot encode a request", run->first);
		return;
	}
	fp->batch_len += (size_t)n;
	stats_add(fp->placer.stats, requests, 1);
}

static uint32_t pages_got(const struct in_flight_entry *e)
{
	const struct assembly *a = e->assembly;

	return a ? a->n_got : 0;
}

/* What was asked for: the whole unit, unless it was poisoned or placed before the last piece. */
static bool all_answered(const struct in_flight_entry *e)
{
	return !e->assembly || pages_got(e) == e->n_asked;
}

/* The whole unit, or of a very large one as much as may be on its way at a time. */
static void request_pieces(struct fault_path *fp, const struct region *r, struct in_flight_entry *e)
{
	enum page_state state = page_map_get(fp->placer.map, e->unit);
	uint32_t n_pages = region_unit_pages(r), n_got = pages_got(e);

	/* Final meanwhile: not to its end. But each entry is asked for, or nothing would end it. */
	if (e->n_asked > 0 &&
	    (state == PAGE_PRESENT || state == PAGE_POISONED || state == PAGE_REMOVED))
		return;
	while (e->n_asked < n_pages && e->n_asked - n_got < PIECES_AHEAD * PIECE_PAGES) {
		struct page_run run = {.first = region_unit_page(r, e->unit) + e->n_asked,
		                       .count = MIN(n_pages - e->n_asked, PIECE_PAGES)};

		request_encode(fp, e->id, &run);
		e->n_asked += run.count;
	}
}

static void request_send(struct fault_path *fp, struct in_flight_entry *e)
{
	const struct region *r = region_find_unit(fp->params.regions, e->unit);

	if (region_unit_pages(r) > 1 && assembly_take(fp, r, e) < 0)
		return;
	e->n_asked = 0;
	request_pieces(fp, r, e);
	e->sent = true;
	fp->n_unsent--;
	atomic_store_explicit(fp->params.last_fault_page,
	                      region_unit_page(r, e->unit) + region_unit_pages(r) - 1,
	                      memory_order_relaxed);
}

static void send_unsent(struct fault_path *fp)
{
	struct in_flight_entry *e;
	uint32_t cursor = 0;

	if (!fp->serving || fp->n_unsent == 0)
		return;
	while ((e = in_flight_next(fp->in_flight, &cursor)))
		if (!e->sent)
			request_send(fp, e);
	batch_flush(fp);
}

/* ---- out: faults ---- */

/*
 * More units are asked for than the table has room: give this one back. Its
 * threads fault again, and find room when others were answered.
 */
static void request_refuse(struct fault_path *fp, const struct region *r, uint64_t unit)
{
	if (page_map_claim(fp->placer.map, unit))
		page_map_release(fp->placer.map, unit);
	placement_wake(&fp->placer, r, unit, 1);
}

static void request_add(struct fault_path *fp, const struct region *r, uint64_t unit,
                        uint64_t now_ns)
{
	struct in_flight_entry *e = in_flight_add(fp->in_flight, unit, now_ns);

	if (!e) {
		request_refuse(fp, r, unit);
		return;
	}
	fp->n_unsent++;
	if (fp->serving)
		request_send(fp, e);
}

/* What is known of the unit already; PAGE_MISSING, PAGE_REQUESTED ...: nothing is left to do. */
static enum page_state ask_for(struct fault_path *fp, const struct region *r, uint64_t unit,
                               uint64_t now_ns)
{
	enum page_state s = page_map_request(fp->placer.map, unit);

	if (s == PAGE_MISSING)
		request_add(fp, r, unit, now_ns);
	else if (page_state_is_final(s))
		stats_add(fp->placer.stats, faults_local, 1);
	else
		stats_add(fp->placer.stats, faults_coalesced, 1);
	return s;
}

static bool count_fault(struct fault_path *fp, const struct uffd_msg *msg)
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
		complain(fp, "a page fault outside every region of its userfaultfd", hva.addr);
}

static void take_fault(struct fault_path *fp, const struct uffd_msg *msg, uint64_t now_ns)
{
	hva_t hva = {msg->arg.pagefault.address};
	bool minor = count_fault(fp, msg);
	enum page_state s;
	uint64_t unit;
	const struct region *r = find_fault(fp, hva, &unit);

	if (!r) {
		take_stray(fp, hva);
		return;
	}
	fp->n_strays = 0;
	s = ask_for(fp, r, unit, now_ns);
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
	batch_flush(fp);
	return n;
}

static void on_uffd_readable(evutil_socket_t fd, short what, void *arg)
{
	struct fault_path *fp = arg;

	(void)fd;
	(void)what;
	for (int i = 0; i < BATCHES_A_WAKEUP; i++)
		if (take_batch(fp) < FAULT_BATCH)
			break;
}

/* ---- out: faults in further mappings, the same with another address ---- */

static void take_mapped_fault(struct fault_path *fp, struct mapping *m, const struct uffd_msg *msg,
                              uint64_t now_ns)
{
	hva_t hva = {msg->arg.pagefault.address};
	bool minor = count_fault(fp, msg);
	const struct region *r;
	enum page_state s;
	uint64_t unit;

	if (!mapping_find_hva(m, hva, &unit)) {
		complain(fp, "a page fault outside every region of a further mapping", hva.addr);
		return;
	}
	r = region_find_unit(fp->params.regions, unit);
	s = ask_for(fp, r, unit, now_ns);
	hva.addr = align_down(hva.addr, region_unit_bytes(r));
	if (page_state_is_final(s))
		placement_answer_mapping(&fp->placer, m, hva, r, s, minor);
}

static void on_mapped_readable(evutil_socket_t fd, short what, void *arg)
{
	struct mapped *mapped = arg;
	struct fault_path *fp = mapped->fp;
	struct uffd_msg msgs[FAULT_BATCH];
	int n = uffd_read(mapped->mapping->uffd, msgs, FAULT_BATCH);
	uint64_t now_ns = n > 0 ? clock_monotonic_ns() : 0;

	(void)fd;
	(void)what;
	for (int i = 0; i < n; i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			take_mapped_fault(fp, mapped->mapping, &msgs[i], now_ns);
	batch_flush(fp);
}

static struct mapped *mapped_free(struct mapped *mapped)
{
	if (mapped && mapped->event)
		event_free(mapped->event);
	free(mapped);
	return NULL;
}

int fault_path_map(struct fault_path *fp, uint32_t id)
{
	struct mapping *m = mapping_set_get(fp->placer.mappings, id);
	struct mapped *mapped = calloc(1, sizeof(*mapped));

	if (mapped) {
		mapped->fp = fp;
		mapped->mapping = m;
		mapped->event = event_new(loop_base(fp->params.loop), m->uffd, EV_READ | EV_PERSIST,
		                          on_mapped_readable, mapped);
	}
	if (!mapped || !mapped->event || event_priority_set(mapped->event, 0) < 0 ||
	    event_add(mapped->event, NULL) < 0) {
		mapped_free(mapped);
		return -ENOMEM;
	}
	fp->mapped[id] = mapped;
	placement_catch_up(&fp->placer, m);
	return 0;
}

void fault_path_unmap(struct fault_path *fp, uint32_t id)
{
	fp->mapped[id] = mapped_free(fp->mapped[id]);
	mapping_free(mapping_set_take(fp->placer.mappings, id));
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

/* ---- back: answers. A message is judged as a whole before any of it is taken. ---- */

static void request_end(struct fault_path *fp, struct in_flight_entry *e)
{
	histogram_record(&fp->placer.stats->fault_ns, clock_monotonic_ns() - e->started_ns);
	assembly_give_back(fp, e);
	in_flight_remove(fp->in_flight, e);
	if (fp->n_unsent > 0)
		send_unsent(fp);
}

static int place_run(struct fault_path *fp, const struct region *r, uint64_t unit,
                     enum page_kind kind, const uint8_t *bytes)
{
	switch (kind) {
	case PAGE_KIND_DATA:
		return placement_data(&fp->placer, r, unit, 1, bytes);
	case PAGE_KIND_ZERO:
		return placement_zero(&fp->placer, r, unit, 1);
	default:
		return placement_poison(&fp->placer, r, unit, 1, LEDGER_READ_ERROR);
	}
}

/* A piece of a huge page. One poisoned piece poisons the whole; the rest is awaited and dropped. */
static int take_piece(struct fault_path *fp, const struct region *r, struct in_flight_entry *e,
                      const struct page_run *run, const uint8_t *bytes, struct error *err)
{
	struct assembly *a = e->assembly;
	uint64_t in_unit = run->first - region_unit_page(r, e->unit);
	int rc;

	rc = assembly_add(a, (uint32_t)in_unit, run->count,
	                  run->kind == PAGE_KIND_DATA ? bytes : NULL);
	if (rc < 0)
		return error_set(err, -EPROTO,
		                 "the source answered page %" PRIu64 " of request %" PRIu64
		                 " twice",
		                 run->first, e->id);
	if (run->kind == PAGE_KIND_POISONED)
		rc = place_run(fp, r, e->unit, PAGE_KIND_POISONED, NULL);
	else if (assembly_complete(a))
		rc = place_run(fp, r, e->unit, a->all_zero ? PAGE_KIND_ZERO : PAGE_KIND_DATA,
		               a->buffer);
	return rc;
}

static int check_answer(struct fault_path *fp, const struct in_flight_entry *e,
                        const struct page_runs *runs, struct error *err)
{
	const struct region *r = region_find_unit(fp->params.regions, e->unit);
	uint64_t first = region_unit_page(r, e->unit);
	uint32_t n_pages = e->n_asked;

	for (size_t i = 0; i < runs->n_runs; i++) {
		const struct page_run *run = &runs->runs[i];

		if (run->first < first || run->first - first >= n_pages ||
		    run->count > n_pages - (run->first - first))
			return error_set(err, -EPROTO,
			                 "the source answered request %" PRIu64
			                 " for pages %" PRIu64 "+%" PRIu32 " with pages %" PRIu64
			                 "+%" PRIu32,
			                 e->id, first, n_pages, run->first, run->count);
	}
	return 0;
}

static int take_answer_run(struct fault_path *fp, struct in_flight_entry *e,
                           const struct page_run *run, const uint8_t *bytes, struct error *err)
{
	const struct region *r = region_find_unit(fp->params.regions, e->unit);

	if (region_unit_pages(r) > 1)
		return take_piece(fp, r, e, run, bytes, err);
	return place_run(fp, r, e->unit, run->kind, bytes);
}

/* The stop of a lane and the end of a VMM are no fault of the source's. */
static int placement_result(int rc)
{
	return rc == -ESRCH || rc == -ECANCELED ? 0 : rc;
}

static int take_answer(struct fault_path *fp, const struct page_message *m, struct error *err)
{
	struct in_flight_entry *e = in_flight_find(fp->in_flight, m->pages.id);
	const uint8_t *bytes = m->pages.bytes;
	uint64_t n_pages = 0;
	int rc;

	if (!e || !e->sent)
		return error_set(err, -EPROTO,
		                 "the source answered request %" PRIu64
		                 ", which was never sent or is answered already",
		                 m->pages.id);
	rc = check_answer(fp, e, &m->pages.runs, err);
	if (rc < 0)
		return rc;
	stats_add(fp->placer.stats, bytes_received, m->pages.bytes_len);
	for (size_t i = 0; i < m->pages.runs.n_runs; i++) {
		const struct page_run *run = &m->pages.runs.runs[i];

		rc = take_answer_run(fp, e, run, bytes, err);
		if (placement_result(rc) < 0)
			return rc;
		n_pages += run->count;
		if (run->kind == PAGE_KIND_DATA)
			bytes += (size_t)run->count << WIRE_PAGE_SHIFT;
	}
	if (e->assembly) {
		request_pieces(fp, region_find_unit(fp->params.regions, e->unit), e);
		batch_flush(fp);
	}
	if (n_pages > 0 && all_answered(e))
		request_end(fp, e);
	return 0;
}

static enum ledger_reason reason_of(enum poison_reason reason)
{
	switch (reason) {
	case POISON_REASON_READ_ERROR:
		return LEDGER_READ_ERROR;
	case POISON_REASON_INHERITED:
		return LEDGER_INHERITED;
	default:
		return LEDGER_REPORTED;
	}
}

static int check_poison(const struct fault_path *fp, const struct page_runs *runs,
                        struct error *err)
{
	for (size_t i = 0; i < runs->n_runs; i++) {
		const struct page_run *run = &runs->runs[i];

		if (!region_run_valid(fp->params.regions, run->first, run->count))
			return error_set(err, -EPROTO,
			                 "the source reports poison for pages %" PRIu64 "+%" PRIu32
			                 ", outside every region",
			                 run->first, run->count);
	}
	return 0;
}

/* What of it is in this lane's pieces; the other lanes are told as well. */
static int take_poison_run(struct fault_path *fp, const struct page_run *run,
                           enum ledger_reason reason)
{
	uint64_t page = run->first, left = run->count;
	int rc = 0;

	while (rc == 0 && left > 0) {
		const struct region *r = NULL;
		uint64_t n = region_run_part(fp->params.regions, page, left, &r);

		if (r->lane == fp->params.lane) {
			uint64_t first = region_unit_of_page(r, page);
			uint64_t last = region_unit_of_page(r, page + n - 1);

			rc = placement_result(
			        placement_poison(&fp->placer, r, first, last - first + 1, reason));
		}
		page += n;
		left -= n;
	}
	return rc;
}

static int take_poison(struct fault_path *fp, const struct page_message *m, struct error *err)
{
	const struct page_runs *runs = &m->poison_notice.runs;
	enum ledger_reason reason = reason_of(m->poison_notice.reason);
	int rc = check_poison(fp, runs, err);

	for (size_t i = 0; rc == 0 && i < runs->n_runs; i++)
		rc = take_poison_run(fp, &runs->runs[i], reason);
	return rc;
}

static void start_serving(struct fault_path *fp)
{
	fp->serving = true;
	send_unsent(fp);
}

static int take_frozen(struct fault_path *fp, struct error *err)
{
	if (fp->serving)
		return error_set(err, -EPROTO, "the source says twice that it is frozen");
	start_serving(fp);
	fp->params.callbacks->on_frozen(fp->params.user);
	return 0;
}

static int on_message(const struct page_message *m, struct error *err, void *user)
{
	struct fault_path *fp = user;

	switch (m->type) {
	case PAGE_MESSAGE_PAGES:
		return take_answer(fp, m, err);
	case PAGE_MESSAGE_POISON_NOTICE:
		return take_poison(fp, m, err);
	case PAGE_MESSAGE_FROZEN:
		return take_frozen(fp, err);
	case PAGE_MESSAGE_COMPLETE_ACK:
		fp->params.callbacks->on_complete_ack(fp->params.user);
		return 0;
	default:
		return error_set(err, -EPROTO, "the source sent %s on the urgent connection",
		                 page_message_type_name(m->type));
	}
}

/* ---- the connection ---- */

static int on_welcome(const struct page_message *m, struct error *err, void *user)
{
	struct fault_path *fp = user;
	int rc = source_link_match(m, fp->params.regions, err);

	if (rc < 0)
		return rc;
	fp->params.callbacks->on_connected(m->hello_ack.poisoned_pages, m->hello_ack.frozen,
	                                   fp->params.user);
	if (m->hello_ack.frozen)
		start_serving(fp);
	return 0;
}

static void on_lost(const struct error *err, bool retriable, void *user)
{
	struct fault_path *fp = user;
	struct error e = *err; /* the link's own copy goes with it */

	fault_path_disconnect(fp);
	fp->params.callbacks->on_lost(&e, retriable, fp->params.user);
}

void fault_path_connect(struct fault_path *fp, const struct source_link_params *link,
                        const struct addrinfo *address)
{
	static const struct source_link_callbacks callbacks = {
	        .on_welcome = on_welcome, .on_message = on_message, .on_lost = on_lost};
	struct source_link_params params = *link;
	struct error err = {0};

	fault_path_disconnect(fp);
	params.callbacks = &callbacks;
	params.user = fp;
	if (source_link_new(&params, address, &fp->link, &err) < 0)
		fp->params.callbacks->on_lost(&err, true, fp->params.user);
}

void fault_path_disconnect(struct fault_path *fp)
{
	struct in_flight_entry *e;
	uint32_t cursor = 0;

	fp->link = source_link_free(fp->link);
	fp->serving = false;
	fp->batch_len = 0;
	while ((e = in_flight_next(fp->in_flight, &cursor))) {
		assembly_give_back(fp, e);
		fp->n_unsent += e->sent;
		e->sent = false;
		in_flight_renew(fp->in_flight, e); /* an old answer must not fit */
	}
}

/* ---- orders from the main thread, by way of the lane ---- */

int fault_path_poison(struct fault_path *fp, uint64_t first_unit, uint64_t n_units,
                      enum ledger_reason reason)
{
	uint64_t unit = first_unit, end = first_unit + n_units;
	int rc = 0;

	while (unit < end && rc == 0) {
		const struct region *r = region_find_unit(fp->params.regions, unit);
		uint64_t n;

		if (!r)
			return -ERANGE;
		n = MIN(end - unit, region_n_units(r) - (unit - r->first_unit));
		if (r->lane == fp->params.lane)
			rc = placement_poison(&fp->placer, r, unit, n, reason);
		unit += n;
	}
	return rc;
}

int fault_path_send(struct fault_path *fp, const struct page_message *m)
{
	return fp->link ? source_link_send(fp->link, m) : -ENOTCONN;
}

/* ---- life ---- */

static uint64_t largest_unit(const struct fault_path *fp)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < fp->params.regions->n_regions; i++)
		if (fp->params.regions->regions[i].lane == fp->params.lane)
			bytes = MAX(bytes, region_unit_bytes(&fp->params.regions->regions[i]));
	return bytes;
}

static int make_assemblies(struct fault_path *fp)
{
	uint64_t unit_bytes = largest_unit(fp);
	uint64_t n;

	if (unit_bytes <= WIRE_PAGE_SIZE)
		return 0;
	n = MIN(HUGE_OUTSTANDING_BYTES / unit_bytes, (uint64_t)HUGE_OUTSTANDING_MAX);
	for (uint64_t i = 0; i < MAX(n, UINT64_C(1)); i++) {
		int rc = assembly_new(unit_bytes, &fp->assemblies[i]);

		if (rc < 0)
			return rc;
		fp->n_free_assemblies++;
	}
	return 0;
}

static int watch_uffd(struct fault_path *fp)
{
	fp->uffd_event = event_new(loop_base(fp->params.loop), fp->params.uffd,
	                           EV_READ | EV_PERSIST, on_uffd_readable, fp);
	if (!fp->uffd_event || event_priority_set(fp->uffd_event, 0) < 0 ||
	    event_add(fp->uffd_event, NULL) < 0)
		return -ENOMEM;
	return 0;
}

int fault_path_new(const struct fault_path_params *params, struct fault_path **ret)
{
	_cleanup_(cleanup_fault_path_free) struct fault_path *fp = calloc(1, sizeof(*fp));
	int rc;

	if (!fp)
		return -ENOMEM;
	fp->params = *params;
	fp->placer = params->placer;
	rc = in_flight_new(IN_FLIGHT_MAX, &fp->in_flight);
	if (rc == 0)
		rc = make_assemblies(fp);
	if (rc == 0)
		rc = watch_uffd(fp);
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(fp);
	return 0;
}

int fault_path_recover(struct fault_path *fp, struct recovery *ret)
{
	const struct fault_path_params *p = &fp->params;

	return recovery_run(&fp->placer, p->lane, p->events, p->events ? FAULT_BATCH : 0, ret);
}

struct fault_path *fault_path_free(struct fault_path *fp)
{
	if (!fp)
		return NULL;
	if (fp->in_flight)
		fault_path_disconnect(fp);
	if (fp->uffd_event)
		event_free(fp->uffd_event);
	for (size_t i = 0; i < MAPPINGS_MAX; i++)
		mapped_free(fp->mapped[i]);
	for (size_t i = 0; i < HUGE_OUTSTANDING_MAX; i++)
		assembly_free(fp->assemblies[i]);
	in_flight_free(fp->in_flight);
	free(fp);
	return NULL;
}
