/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The touching threads of the destination's test guest, and the final check.
 * Called by guest_destination.c. Always holds: a page that one thread found
 * healthy no other thread may find lost, and the other way round.
 */
#include "support/guest_touch.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SIGBUS_REPEATS 3
#define PRINT_MAX 20

/* TSan blocks all signals in handlers, also with SA_NODEFER; otherwise the mask need not be saved. */
#ifdef __SANITIZE_THREAD__
#define SAVE_MASK 1
#else
#define SAVE_MASK 0
#endif

enum found {
	FOUND_HEALTHY = 1,
	FOUND_LOST = 2,
	FOUND_WRONG = 4,
	FOUND_MOVED = 8 /* not any more where it was: look again */
};

struct toucher {
	struct guest_touch *touch;
	pthread_t thread;
	unsigned index;
	uint64_t touched;
};

struct guest_touch {
	struct guest *guest;
	_Atomic uint8_t *found; /* bits of enum found a page */
	struct toucher *touchers;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned running;
	unsigned paused;
	bool go;
	_Atomic uint64_t sigbus_code[8]; /* by si_code */
	_Atomic uint64_t sigbus_lsb;     /* bit N: an si_addr_lsb of N */
	_Atomic uint64_t printed;
};

static _Thread_local sigjmp_buf bus_jump;
static _Thread_local volatile sig_atomic_t bus_armed;
static _Thread_local volatile int bus_code;
static _Thread_local volatile int bus_lsb;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!bus_armed) {
		signal(sig, SIG_DFL);
		return;
	}
	bus_armed = 0;
	if (sig == SIGSEGV)
		siglongjmp(bus_jump, FOUND_MOVED);
	bus_code = info->si_code;
	bus_lsb = info->si_code == BUS_MCEERR_AR ? info->si_addr_lsb : 0;
	siglongjmp(bus_jump, FOUND_LOST);
}

/* The write comes first for the thread that owns the page: it must survive what arrives later. */
static enum found page_look(const struct pattern_page *pp, uint8_t *address, bool write,
                            enum pattern_word0 word0)
{
	int wrong, found = sigsetjmp(bus_jump, SAVE_MASK);

	if (found)
		return (enum found)found;
	bus_armed = 1;
	if (write)
		__atomic_store_n((uint64_t *)(void *)address, pattern_written_word(pp),
		                 __ATOMIC_RELAXED);
	wrong = pattern_verify(pp, address, word0);
	bus_armed = 0;
	return wrong < 0 ? FOUND_HEALTHY : FOUND_WRONG;
}

static bool is_given_back(const struct guest *g, uint64_t page)
{
	return g->given_back && g->given_back[page];
}

static enum found zeros_look(const struct guest *g, uint64_t page)
{
	bool zeros;

	if (sigsetjmp(bus_jump, SAVE_MASK))
		return FOUND_LOST;
	bus_armed = 1;
	zeros = guest_page_is_zeros(g, page);
	bus_armed = 0;
	return zeros ? FOUND_HEALTHY : FOUND_WRONG;
}

static void note_sigbus(struct guest_touch *t)
{
	atomic_fetch_add(&t->sigbus_code[(unsigned)bus_code % 8], 1);
	if (bus_lsb)
		atomic_fetch_or(&t->sigbus_lsb, UINT64_C(1) << ((unsigned)bus_lsb % 64));
}

static void complain(struct guest_touch *t, uint64_t page, const char *what)
{
	struct pattern_page pp = guest_pattern_page(t->guest, page);

	if (atomic_fetch_add(&t->printed, 1) < PRINT_MAX)
		driven_event("wrong-page", "%s offset %#llx: %s", t->guest->regions[pp.region].name,
		             (unsigned long long)pp.page * PATTERN_PAGE, what);
}

/* What a storm may be giving back just now is its data or zeros. */
static enum found look(struct guest_touch *t, uint64_t page, bool write)
{
	struct pattern_page pp = guest_pattern_page(t->guest, page);
	enum found found;

	do
		found = is_given_back(t->guest, page)
		                ? zeros_look(t->guest, page)
		                : page_look(&pp, guest_page_address(t->guest, page), write,
		                            PATTERN_WORD0_EITHER);
	while (found == FOUND_MOVED);
	if (found == FOUND_WRONG && guest_storm_page(t->guest, page))
		found = zeros_look(t->guest, page);
	return found;
}

static void page_note(struct guest_touch *t, uint64_t page, bool write)
{
	enum found found = look(t, page, write);

	if (found == FOUND_WRONG)
		complain(t, page, "wrong bytes while it ran");
	if (found == FOUND_LOST) {
		note_sigbus(t);
		/* Lost is lost: whoever looks again gets the same. */
		for (int i = 0; i < SIGBUS_REPEATS; i++)
			if (look(t, page, false) != FOUND_LOST)
				found |= FOUND_HEALTHY;
	}
	atomic_fetch_or_explicit(&t->found[page], (uint8_t)found, memory_order_relaxed);
}

void guest_touch_page(struct guest_touch *t, uint64_t page)
{
	page_note(t, page, false);
}

static void touch_page(struct guest_touch *t, const struct toucher *self, uint64_t page)
{
	struct pattern_page pp = guest_pattern_page(t->guest, page);

	page_note(t, page,
	          pattern_is_written(&pp) && page % t->guest->threads == self->index &&
	                  !guest_storm_page(t->guest, page) && !t->guest->mapping_of);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* "waited NS END": the driver knows what happened meanwhile, by the same clock. */
static void touch_timed(struct guest_touch *t, const struct toucher *self, uint64_t page)
{
	uint64_t begin = t->guest->waits_ms ? now_ns() : 0, end;

	touch_page(t, self, page);
	if (!t->guest->waits_ms)
		return;
	end = now_ns();
	if (end - begin >= t->guest->waits_ms * 1000000)
		driven_event("waited", "%llu %llu", (unsigned long long)(end - begin),
		             (unsigned long long)end);
}

/*
 * "discard FIRST N" and "replace FIRST N" do that to pages, "export" moves on to the next
 * host; anything else, and the end, is "go".
 */
static bool take_order(struct guest *g, const char *line)
{
	unsigned long long first, n;
	char word[16];

	if (!strcmp(line, "export\n"))
		guest_relay_run(g);
	if (sscanf(line, "%15s %llu %llu", word, &first, &n) != 3)
		return false;
	if (guest_discard(g, first, n, !strcmp(word, "replace")) < 0)
		_exit(GUEST_USAGE);
	return true;
}

static void await_go(struct guest_touch *t)
{
	char line[64];

	driven_event("paused", "%llu",
	             (unsigned long long)(t->guest->pause_after * t->guest->threads));
	while (fgets(line, sizeof(line), stdin) && take_order(t->guest, line))
		;
	pthread_mutex_lock(&t->lock);
	t->go = true;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

/* Stop in the middle until the driver says "go"; the last one to come here listens. */
static void pause_here(struct guest_touch *t)
{
	bool last;

	pthread_mutex_lock(&t->lock);
	last = ++t->paused == t->guest->threads;
	pthread_mutex_unlock(&t->lock);
	if (last)
		await_go(t);
	pthread_mutex_lock(&t->lock);
	while (!t->go)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static uint32_t *new_permutation(uint64_t n, uint64_t seed)
{
	uint32_t *order = malloc(n * sizeof(*order));

	if (!order)
		return NULL;
	for (uint64_t i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (uint64_t i = n - 1; i > 0; i--) {
		uint64_t j = pattern_mix(seed + i) % (i + 1);
		uint32_t swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
	return order;
}

static void *toucher_main(void *arg)
{
	struct toucher *self = arg;
	struct guest_touch *t = self->touch;
	struct guest *g = t->guest;
	uint32_t *order = new_permutation(g->n_pages, g->seed + ((uint64_t)self->index << 32));

	for (uint64_t i = 0; order && i < g->n_pages; i++) {
		if (g->partition && order[i] % g->threads != self->index)
			continue;
		if (g->pause_after && self->touched == g->pause_after)
			pause_here(t);
		touch_timed(t, self, order[i]);
		self->touched++;
	}
	free(order);
	guest_touch_leave(t);
	return NULL;
}

void guest_touch_join_in(struct guest_touch *t)
{
	pthread_mutex_lock(&t->lock);
	t->running++;
	pthread_mutex_unlock(&t->lock);
}

void guest_touch_leave(struct guest_touch *t)
{
	pthread_mutex_lock(&t->lock);
	t->running--;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

int guest_touch_new(struct guest *g, struct guest_touch **ret)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct guest_touch *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->guest = g;
	t->found = calloc(g->n_pages, sizeof(*t->found));
	t->touchers = calloc(g->threads, sizeof(*t->touchers));
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	if (!t->found || !t->touchers || sigaction(SIGBUS, &action, NULL) < 0 ||
	    (g->moves && sigaction(SIGSEGV, &action, NULL) < 0)) {
		guest_touch_free(t);
		return -ENOMEM;
	}
	*ret = t;
	return 0;
}

struct guest_touch *guest_touch_free(struct guest_touch *t)
{
	free((void *)t->found);
	free(t->touchers);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->changed);
	free(t);
	return NULL;
}

int guest_touch_start(struct guest_touch *t)
{
	t->running = t->guest->threads;
	for (unsigned i = 0; i < t->guest->threads; i++) {
		int ret;

		t->touchers[i] = (struct toucher){.touch = t, .index = i};
		ret = pthread_create(&t->touchers[i].thread, NULL, toucher_main, &t->touchers[i]);
		if (ret)
			return -ret;
		pthread_detach(t->touchers[i].thread);
	}
	driven_event("touching", "%u", t->guest->threads);
	if (t->guest->moves && guest_moves_start(t, t->guest) < 0)
		return -EAGAIN;
	return t->guest->storm ? guest_storm_start(t, t->guest) : 0;
}

bool guest_touch_done(struct guest_touch *t, int wait_ms)
{
	struct timespec until;
	bool done;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (long)wait_ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&t->lock);
	while (t->running && pthread_cond_timedwait(&t->changed, &t->lock, &until) == 0)
		;
	done = t->running == 0;
	pthread_mutex_unlock(&t->lock);
	return done;
}

struct findings {
	uint64_t healthy, lost, late_lost, off;
};

static const char *judge(const struct guest *g, enum found before, enum found now,
                         enum poison_expectation expect)
{
	if (now == FOUND_WRONG || before & FOUND_WRONG)
		return "wrong bytes";
	if (before && before != now)
		return now == FOUND_LOST ? "healthy while it ran, lost at the end"
		                         : "lost while it ran, healthy at the end";
	if (g->any_poison)
		return NULL;
	if (now == FOUND_LOST && expect == POISON_NONE)
		return "lost, and should be healthy";
	if (now == FOUND_HEALTHY && expect == POISON_SURE)
		return "healthy, and should be lost";
	return NULL;
}

static void check_page(struct guest_touch *t, uint64_t page, struct findings *f)
{
	const struct guest *g = t->guest;
	struct pattern_page pp = guest_pattern_page(g, page);
	/* Given back before anybody here knew that it was lost, it is a new page. */
	enum poison_expectation known = guest_page_expect(g, page),
	                        expect = known == POISON_SURE && guest_storm_page(g, page)
	                                         ? POISON_MAYBE
	                                         : known;
	enum found now = is_given_back(g, page) ? zeros_look(g, page)
	                                        : page_look(&pp, guest_page_address(g, page), false,
	                                                    g->mapping_of ? PATTERN_WORD0_EITHER
	                                                                  : PATTERN_WORD0_WRITTEN);
	const char *wrong = judge(g, (enum found)atomic_load(&t->found[page]), now, expect);

	f->healthy += now == FOUND_HEALTHY;
	f->lost += now == FOUND_LOST;
	f->late_lost += now == FOUND_LOST && expect == POISON_MAYBE;
	f->off += wrong != NULL;
	if (now == FOUND_LOST) {
		note_sigbus(t);
		driven_event("lost-page", "%s %llu", g->regions[pp.region].name,
		             (unsigned long long)pp.page * PATTERN_PAGE);
	}
	if (wrong)
		complain(t, page, wrong);
}

uint64_t guest_touch_verify(struct guest_touch *t)
{
	struct findings f = {0};

	for (uint64_t page = 0; page < t->guest->n_pages; page++)
		check_page(t, page, &f);
	driven_event("pages", "%llu", (unsigned long long)t->guest->n_pages);
	driven_event("healthy", "%llu", (unsigned long long)f.healthy);
	driven_event("lost", "%llu", (unsigned long long)f.lost);
	driven_event("lost-late", "%llu", (unsigned long long)f.late_lost);
	driven_event("off", "%llu", (unsigned long long)f.off);
	driven_event("sigbus-mceerr-ar", "%llu",
	             (unsigned long long)atomic_load(&t->sigbus_code[BUS_MCEERR_AR]));
	driven_event("sigbus-adrerr", "%llu",
	             (unsigned long long)atomic_load(&t->sigbus_code[BUS_ADRERR]));
	for (unsigned lsb = 0; lsb < 64; lsb++)
		if (atomic_load(&t->sigbus_lsb) >> lsb & 1)
			driven_event("sigbus-lsb", "%u", lsb);
	return f.off;
}
