/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the first step of a fault in a further mapping (mapping.h): as fault_event.c, with
 * the other process's userfaultfd and addresses. No events but faults come there.
 */
#include <errno.h>

#include "core/clock.h"
#include "daemon/fault_path_parts.h"
#include "daemon/uffd.h"

static void take_mapped_fault(struct fault_path *fp, struct mapping *m, const struct uffd_msg *msg,
                              uint64_t now_ns)
{
	hva_t hva = {msg->arg.pagefault.address};
	bool minor = fault_event_count(fp, msg);
	const struct region *r;
	enum page_state s;
	uint64_t unit;

	if (!mapping_find_hva(m, hva, &unit)) {
		fault_complain(fp, "a page fault outside every region of a further mapping",
		               hva.addr);
		return;
	}
	r = region_find_unit(fp->params.regions, unit);
	s = fault_request_unit(fp, r, unit, now_ns);
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
	fault_request_flush(fp);
}

struct mapped *fault_mapping_free(struct mapped *mapped)
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
		fault_mapping_free(mapped);
		return -ENOMEM;
	}
	fp->mapped[id] = mapped;
	placement_catch_up(&fp->placer, m);
	return 0;
}

void fault_path_unmap(struct fault_path *fp, uint32_t id)
{
	fp->mapped[id] = fault_mapping_free(fp->mapped[id]);
	mapping_free(mapping_set_take(fp->placer.mappings, id));
}
