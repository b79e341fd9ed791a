/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that answers the agent, and the life of an inbound export's part of the
 * handle. Called by export.c, link.c and reply.c.
 *
 * Always holds: the answering thread waits for nothing but the agent, so that a page
 * that is here is told of however many others do not come.
 */
#include "client/inbound.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/thread.h"

/* An agent of ours has one question a stream on its way, and joins the urgent ones. */
#define ASKS_MAX 65536

static void answerer_wake(struct inbound *in)
{
	uint64_t one = 1;
	ssize_t n = write(in->event_fd, &one, sizeof(one));

	(void)n; /* fails only when it is readable anyway */
}

void inbound_notice(struct inbound *in)
{
	answerer_wake(in);
}

void inbound_list_due(struct inbound *in)
{
	pthread_mutex_lock(&in->lock);
	in->list_due = true;
	pthread_cond_broadcast(&in->changed);
	pthread_mutex_unlock(&in->lock);
}

enum inbound_phase inbound_phase(struct inbound *in)
{
	struct postcopy *from = in->from;
	enum inbound_phase phase = INBOUND_ARRIVING;

	pthread_mutex_lock(&from->lock);
	if (from->status.state == POSTCOPY_STATE_COMPLETED)
		phase = INBOUND_COMPLETED;
	else if (from->status.final || from->broken)
		phase = INBOUND_FAILED;
	pthread_mutex_unlock(&from->lock);
	return phase;
}

int inbound_asked(struct inbound *in, const struct attach_reply *populate)
{
	struct inbound_ask *ask = malloc(sizeof(*ask));
	bool full;

	if (!ask)
		return -ENOMEM;
	ask->next = NULL;
	ask->populate = *populate;
	pthread_mutex_lock(&in->lock);
	full = in->n_asks >= ASKS_MAX;
	if (!full) {
		*in->asks_tail = ask;
		in->asks_tail = &ask->next;
		in->n_asks++;
	}
	pthread_mutex_unlock(&in->lock);
	if (full) {
		free(ask);
		return -EPROTO;
	}
	answerer_wake(in);
	return 0;
}

static struct inbound_ask *ask_take(struct inbound *in)
{
	struct inbound_ask *ask;

	pthread_mutex_lock(&in->lock);
	ask = in->stopped ? NULL : in->asks_head;
	if (ask) {
		in->asks_head = ask->next;
		if (!in->asks_head)
			in->asks_tail = &in->asks_head;
		in->n_asks--;
	}
	pthread_mutex_unlock(&in->lock);
	return ask;
}

int inbound_tell(struct inbound *in, uint32_t number, const struct populated_range *ranges,
                 size_t n_ranges, bool all)
{
	struct attach_request request = {.type = ATTACH_REQUEST_POPULATED};
	struct error err = {0};

	request.populated.number = number;
	request.populated.ranges = (struct populated_range *)ranges; /* only read */
	request.populated.n_ranges = n_ranges;
	request.populated.all = all;
	return link_call(in->export, &request, NULL, 0, &err);
}

static void answer_flush(struct inbound *in, uint32_t number)
{
	if (in->n_answer > 0 || number != 0)
		(void)inbound_tell(in, number, in->answer, in->n_answer, false);
	in->n_answer = 0;
}

static void answer_add(struct inbound *in, uint64_t gpa, uint64_t length_bytes, enum page_fate fate)
{
	if (in->n_answer == POISON_RANGES_MAX)
		answer_flush(in, 0);
	populated_add(in->answer, &in->n_answer, gpa, length_bytes, fate);
}

/* One question's pages, as far as they are looked at together. */
struct look {
	const struct inbound_region *region;
	uint64_t gpa;
	size_t n;
	bool urgent;
	enum inbound_phase phase;
};

/* Neither here nor lost: touch it, or, for a stream that asks again, wait until it has come. */
static void fetch(struct inbound *in, const struct look *l, uint64_t gpa, uint64_t length_bytes,
                  bool at_once)
{
	int r = 0;

	if (l->urgent || at_once)
		r = inbound_jobs_add(in, l->region, gpa, length_bytes, l->urgent);
	if (!l->urgent) {
		answer_add(in, gpa, length_bytes, PAGE_FATE_NOT_YET);
	} else if (r < 0) {
		/* The agent would wait for ever: let it know that something is wrong. */
		pthread_mutex_lock(&in->export->lock);
		connection_break(in->export, r == -E2BIG ? -EPROTO : -ECONNRESET);
		pthread_mutex_unlock(&in->export->lock);
	}
}

static void piece_answer(struct inbound *in, const struct look *l, uint64_t gpa,
                         uint64_t length_bytes, enum page_place place, bool covered)
{
	if (place == PAGE_IS_HERE || (place == PAGE_IS_NOWHERE && !covered))
		answer_add(in, gpa, length_bytes, PAGE_FATE_HERE);
	else if (place == PAGE_IS_MARKED || l->phase == INBOUND_COMPLETED)
		fetch(in, l, gpa, length_bytes, true);
	else if (l->phase == INBOUND_FAILED)
		answer_add(in, gpa, length_bytes, PAGE_FATE_LOST);
	else
		fetch(in, l, gpa, length_bytes, false);
}

static void pages_answer(struct inbound *in, const struct look *l, uint64_t gpa,
                         uint64_t length_bytes, enum page_place place)
{
	uint64_t hva = l->region->hva + (gpa - l->region->gpa), at = 0;

	while (at < length_bytes) {
		uint64_t n = length_bytes - at;
		bool covered = inbound_covers(in, hva + at, &n);

		piece_answer(in, l, gpa + at, n, place, covered);
		at += n;
	}
}

static void look_answer(struct inbound *in, const struct look *l)
{
	enum page_place places[PLACES_MAX];
	size_t from = 0;

	if (page_places(in, l->region->hva + (l->gpa - l->region->gpa), l->n, places) < 0)
		for (size_t i = 0; i < l->n; i++)
			places[i] = PAGE_IS_NOWHERE; /* which touching it clears up */
	for (size_t i = 1; i <= l->n; i++) {
		if (i < l->n && places[i] == places[from])
			continue;
		pages_answer(in, l, l->gpa + from * WIRE_PAGE_SIZE, (i - from) * WIRE_PAGE_SIZE,
		             places[from]);
		from = i;
	}
}

static void range_answer(struct inbound *in, const struct poison_range *range, bool urgent,
                         enum inbound_phase phase)
{
	uint64_t at = range->gpa.addr, end = at + range->length_bytes;

	while (at < end) {
		struct look l = {.gpa = at, .urgent = urgent, .phase = phase};
		uint64_t to;

		l.region = inbound_region_find(in, at);
		if (!l.region)
			return; /* nothing that we export: our agent does not ask that */
		to = MIN(end, l.region->gpa + l.region->length_bytes);
		l.n = (size_t)MIN((to - at) / WIRE_PAGE_SIZE, (uint64_t)PLACES_MAX);
		look_answer(in, &l);
		at += l.n * WIRE_PAGE_SIZE;
	}
}

static void asks_answer(struct inbound *in, enum inbound_phase phase)
{
	struct inbound_ask *ask;

	while ((ask = ask_take(in))) {
		const struct attach_reply *q = &ask->populate;

		for (size_t i = 0; i < q->n_ranges; i++)
			range_answer(in, &q->ranges[i], q->urgent, phase);
		answer_flush(in, q->number);
		free(ask);
	}
}

/* The migration has failed: what workers wait for will not come. */
static void give_up(struct inbound *in)
{
	_cleanup_free_ struct poison_range *ranges = NULL;
	size_t n = 0;

	if (in->gave_up || inbound_jobs_give_up(in, &ranges, &n) < 0)
		return;
	in->gave_up = true;
	for (size_t i = 0; i < n; i++)
		range_answer(in, &ranges[i], true, INBOUND_FAILED);
	answer_flush(in, 0);
}

static void phase_act(struct inbound *in, enum inbound_phase phase)
{
	if (phase == INBOUND_FAILED)
		give_up(in);
	if (phase != INBOUND_COMPLETED)
		return;
	pthread_mutex_lock(&in->lock);
	if (!in->completed_seen) {
		in->completed_seen = true;
		in->list_due = true;
		pthread_cond_broadcast(&in->changed);
	}
	pthread_mutex_unlock(&in->lock);
}

/* Somebody must read both connections; whoever else waits on them may be first. */
static int connection_take_in(struct postcopy *h)
{
	int sock;

	pthread_mutex_lock(&h->lock);
	if (!h->broken)
		link_drain(h);
	sock = h->broken ? -1 : h->sock;
	pthread_mutex_unlock(&h->lock);
	return sock;
}

static bool is_stopped(struct inbound *in)
{
	bool stopped;

	pthread_mutex_lock(&in->lock);
	stopped = in->stopped;
	pthread_mutex_unlock(&in->lock);
	return stopped;
}

static void *answerer_main(void *arg)
{
	struct inbound *in = arg;
	uint64_t count;

	while (!is_stopped(in)) {
		struct pollfd fds[3] = {
		        {.fd = connection_take_in(in->export), .events = POLLIN},
		        {.fd = connection_take_in(in->from), .events = POLLIN},
		        {.fd = in->event_fd, .events = POLLIN},
		};
		enum inbound_phase phase = inbound_phase(in);

		phase_act(in, phase);
		asks_answer(in, phase);
		(void)poll(fds, ARRAY_SIZE(fds), -1);
		if (fds[2].revents) {
			ssize_t n = read(in->event_fd, &count, sizeof(count));

			(void)n;
		}
	}
	return NULL;
}

static int files_open(struct inbound *in, struct error *err)
{
	if (!page_fetch_supported())
		return error_set(err, -ENOTSUP,
		                 "the kernel has no MADV_POPULATE_READ, which fetches pages that "
		                 "are not here yet: Linux 5.14 or later is needed");
	in->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (in->pagemap_fd < 0)
		return error_set_errno(err, -errno,
		                       "cannot open /proc/self/pagemap, which tells what is here");
	in->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (in->event_fd < 0)
		return error_set_errno(err, -errno, "cannot make an eventfd");
	return 0;
}

static int regions_copy(struct inbound *in, const struct postcopy_region *regions, size_t n_regions,
                        struct error *err)
{
	in->regions = calloc(n_regions, sizeof(*in->regions));
	in->answer = calloc(POISON_RANGES_MAX, sizeof(*in->answer));
	if (!in->regions || !in->answer)
		return error_set_errno(err, -ENOMEM, "cannot copy %zu regions", n_regions);
	in->n_regions = n_regions;
	for (size_t i = 0; i < n_regions; i++)
		in->regions[i] = (struct inbound_region){
		        .gpa = regions[i].guest_physical_address,
		        .hva = (uintptr_t)regions[i].address,
		        .length_bytes = regions[i].length,
		        .page_size_bytes = regions[i].page_size,
		};
	return 0;
}

static struct inbound *inbound_alloc(struct postcopy *export, struct postcopy *from)
{
	struct inbound *in = calloc(1, sizeof(*in));

	if (!in)
		return NULL;
	in->export = export;
	in->from = from;
	in->pagemap_fd = in->event_fd = -1;
	in->refs = 1;
	in->list_due = true;
	in->asks_tail = &in->asks_head;
	pthread_mutex_init(&in->lock, NULL);
	condition_init(&in->changed);
	inbound_jobs_init(&in->jobs);
	return in;
}

int inbound_new(struct postcopy *export, struct postcopy *from,
                const struct postcopy_region *regions, size_t n_regions, struct error *err)
{
	struct inbound *in;
	int r = inbound_regions_check(from, regions, n_regions, err);

	if (r < 0)
		return r;
	in = inbound_alloc(export, from);
	if (!in)
		return error_set_errno(err, -ENOMEM, "cannot prepare the export");
	r = files_open(in, err);
	if (r == 0)
		r = regions_copy(in, regions, n_regions, err);
	if (r < 0) {
		inbound_unref(in);
		return r;
	}
	export->inbound = in;
	pthread_mutex_lock(&from->lock);
	in->next = from->exports;
	from->exports = in;
	pthread_mutex_unlock(&from->lock);
	return 0;
}

int inbound_start(struct inbound *in, struct error *err)
{
	int r = thread_create_quiet(&in->answerer, NULL, answerer_main, in);

	in->answerer_runs = r == 0;
	if (r == 0) {
		r = thread_create_quiet(&in->teller, NULL, inbound_teller_main, in);
		in->teller_runs = r == 0;
	}
	return r < 0 ? error_set_errno(err, r, "cannot start a thread") : 0;
}

static void leave_list(struct inbound *in)
{
	struct inbound **at = &in->from->exports;

	pthread_mutex_lock(&in->from->lock);
	while (*at && *at != in)
		at = &(*at)->next;
	if (*at)
		*at = in->next;
	pthread_mutex_unlock(&in->from->lock);
}

void inbound_stop(struct inbound *in)
{
	pthread_mutex_lock(&in->lock);
	in->stopped = true;
	pthread_cond_broadcast(&in->changed);
	pthread_mutex_unlock(&in->lock);
	/* Calls that wait for the agent end; and nothing that was read later is told. */
	pthread_mutex_lock(&in->export->lock);
	connection_break(in->export, -ECONNRESET);
	pthread_mutex_unlock(&in->export->lock);
	answerer_wake(in);
	if (in->answerer_runs)
		pthread_join(in->answerer, NULL);
	if (in->teller_runs)
		pthread_join(in->teller, NULL);
	in->answerer_runs = in->teller_runs = false;
	pthread_mutex_lock(&in->lock);
	while (in->jobs.n_calling > 0)
		pthread_cond_wait(&in->changed, &in->lock);
	pthread_mutex_unlock(&in->lock);
	leave_list(in);
}

void inbound_unref(struct inbound *in)
{
	bool last;

	pthread_mutex_lock(&in->lock);
	last = --in->refs == 0;
	pthread_mutex_unlock(&in->lock);
	if (!last)
		return;
	while (in->asks_head) {
		struct inbound_ask *next = in->asks_head->next;

		free(in->asks_head);
		in->asks_head = next;
	}
	inbound_jobs_free(&in->jobs);
	close_fd(&in->pagemap_fd);
	close_fd(&in->event_fd);
	pthread_cond_destroy(&in->changed);
	pthread_mutex_destroy(&in->lock);
	free(in->regions);
	free(in->answer);
	free(in);
}

void inbound_free(struct inbound *in)
{
	if (!in)
		return;
	if (!in->stopped)
		inbound_stop(in);
	inbound_unref(in);
}
