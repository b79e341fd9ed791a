/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control interface's requests, a function each. Called by the control
 * server; nothing here blocks: addresses are resolved in the lanes' threads.
 */
#include "daemon/control_requests.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uffd_abi.h"
#include "core/uffd_open.h"
#include "daemon/migration_view.h"
#include "daemon/source_address.h"
#include "net/tls.h"

typedef int (*request_fn)(struct migration_table *table, const struct control_request *request,
                          struct control_response *response, struct error *err);

int control_unknown_migration(const struct uuid *id, struct error *err)
{
	char text[UUID_TEXT_LEN];

	return error_set(err, -ENOENT, "unknown migration %s", uuid_format(id, text));
}

static int migration_get(struct migration_table *table, const struct control_request *request,
                         struct migration **ret, struct error *err)
{
	*ret = migration_table_find(table, &request->migration_id);
	return *ret ? 0 : control_unknown_migration(&request->migration_id, err);
}

/* An answer with one migration. */
static int respond_migration(const struct migration *m, unsigned what,
                             struct control_response *response, struct error *err)
{
	struct control_migration *view = calloc(1, sizeof(*view));
	uint64_t all = 0;
	int r = view ? migration_view(m, what, view, &all) : -ENOMEM;

	if (r < 0) {
		free(view);
		return error_set(err, r, "not enough memory");
	}
	if (all > view->n_poisoned && (what & MIGRATION_VIEW_POISONED))
		snprintf(response->text, sizeof(response->text),
		         "only the newest %zu of %llu poisoned pages are shown", view->n_poisoned,
		         (unsigned long long)all);
	response->type = CONTROL_RESPONSE_MIGRATION;
	response->migrations = view;
	response->n_migrations = 1;
	return 0;
}

static int start_check(const struct control_request *request, struct error *err)
{
	int r = source_address_check(request->start.source, err);

	if (r == 0)
		r = tls_identity_validate(request->start.peer_identity, err);
	if (r == 0 && (request->start.token_len < TOKEN_BYTES_MIN ||
	               request->start.token_len > TOKEN_BYTES_MAX))
		r = error_set(err, -EINVAL, "the token has %zu bytes: expected %d to %d",
		              request->start.token_len, TOKEN_BYTES_MIN, TOKEN_BYTES_MAX);
	if (r == 0 && request->start.firecracker_socket[0] &&
	    request->start.firecracker_socket[0] != '/')
		r = error_set(err, -EINVAL, "Firecracker's socket %s is not an absolute path",
		              request->start.firecracker_socket);
	if (r == 0 && request->start.lost_policy != LOST_POLICY_HOLD &&
	    request->start.lost_deadline_us == 0)
		r = error_set(err, -EINVAL,
		              "the policy %s needs a deadline: how long to wait for a lost source "
		              "before it is applied",
		              lost_policy_name(request->start.lost_policy));
	return r;
}

static int run_start(struct migration_table *table, const struct control_request *request,
                     struct control_response *response, struct error *err)
{
	const struct migration_params params = {
	        .id = request->migration_id,
	        .source = request->start.source,
	        .peer_identity = request->start.peer_identity,
	        .token = request->start.token,
	        .token_len = request->start.token_len,
	        .lost_policy = request->start.lost_policy,
	        .lost_deadline_us = request->start.lost_deadline_us,
	        .bandwidth = request->start.bandwidth,
	        .stop_on_poison = request->start.stop_on_poison,
	        .firecracker_socket = request->start.firecracker_socket,
	};
	struct migration *m;
	int r = start_check(request, err);

	if (r == 0)
		r = migration_table_start(table, &params, &m, err);
	return r < 0 ? r : respond_migration(m, 0, response, err);
}

static int run_list(struct migration_table *table, const struct control_request *request,
                    struct control_response *response, struct error *err)
{
	struct migration *m;
	size_t n = 0;

	(void)request;
	response->type = CONTROL_RESPONSE_LIST;
	for (m = migration_table_next(table, NULL); m; m = migration_table_next(table, m))
		n++;
	if (n == 0)
		return 0;
	response->migrations = calloc(n, sizeof(*response->migrations));
	if (!response->migrations)
		return error_set(err, -ENOMEM, "not enough memory");
	for (m = migration_table_next(table, NULL); m; m = migration_table_next(table, m)) {
		if (migration_view(m, 0, &response->migrations[response->n_migrations], NULL) < 0)
			return error_set(err, -ENOMEM, "not enough memory");
		response->n_migrations++;
	}
	return 0;
}

static int run_get(struct migration_table *table, const struct control_request *request,
                   struct control_response *response, struct error *err)
{
	struct migration *m;
	int r = migration_get(table, request, &m, err);

	if (r < 0)
		return r;
	return respond_migration(m, MIGRATION_VIEW_REGIONS | MIGRATION_VIEW_POISONED, response,
	                         err);
}

static int run_cancel(struct migration_table *table, const struct control_request *request,
                      struct control_response *response, struct error *err)
{
	struct migration *m;
	int r = migration_get(table, request, &m, err);

	if (r == 0)
		r = migration_cancel(m, request->cancel.force, err);
	return r < 0 ? r : respond_migration(m, 0, response, err);
}

static int run_recover(struct migration_table *table, const struct control_request *request,
                       struct control_response *response, struct error *err)
{
	struct migration *m;
	int r = migration_get(table, request, &m, err);

	if (r == 0)
		r = migration_recover(m, request->recover.source, err);
	return r < 0 ? r : respond_migration(m, 0, response, err);
}

static int run_set_limits(struct migration_table *table, const struct control_request *request,
                          struct control_response *response, struct error *err)
{
	struct migration *m;
	int r = migration_get(table, request, &m, err);

	if (r == 0)
		r = migration_set_bandwidth(m, request->set_limits.bandwidth, err);
	return r < 0 ? r : respond_migration(m, 0, response, err);
}

int control_request_poison(struct migration_table *table, const struct control_request *request,
                           migration_poison_fn fn, void *user, struct poison_request **ret,
                           struct error *err)
{
	struct migration *m;
	int r = migration_get(table, request, &m, err);

	return r < 0 ? r
	             : migration_poison(m, request->poison.ranges, request->poison.n_ranges, fn,
	                                user, ret, err);
}

/* What this process can find out of itself; the whole test is postcopyctl's. */
static int run_probe(struct migration_table *table, const struct control_request *request,
                     struct control_response *response, struct error *err)
{
	_cleanup_close_ int uffd = uffd_open();
	struct control_probe_result *result = calloc(1, sizeof(*result));
	uint64_t features;

	(void)table;
	(void)request;
	if (!result)
		return error_set(err, -ENOMEM, "not enough memory");
	response->type = CONTROL_RESPONSE_PROBE;
	response->probe_results = result;
	response->n_probe_results = 1;
	snprintf(result->memory, sizeof(result->memory), "any");
	if (uffd < 0) {
		snprintf(result->poison, sizeof(result->poison),
		         "unknown: postcopyd has no userfaultfd");
		snprintf(response->userfaultfd, sizeof(response->userfaultfd),
		         "no: %s (postcopyd needs none of its own: VMMs bring theirs)",
		         strerror(-uffd));
	} else {
		snprintf(response->userfaultfd, sizeof(response->userfaultfd), "yes");
		snprintf(result->poison, sizeof(result->poison), "%s",
		         uffd_negotiate(uffd, UFFD_FEATURE_POISON, &features) == 0 ? "yes" : "no");
		if (strcmp(result->poison, "no") == 0)
			snprintf(result->remedy, sizeof(result->remedy),
			         "Linux 6.6 or later, or Linux 6.1 with the series in "
			         "kernel-patches/");
	}
	snprintf(response->remedy, sizeof(response->remedy),
	         "for the test of each kind of memory run postcopyctl probe as the VMM's user");
	return 0;
}

static int run_other_daemon(struct migration_table *table, const struct control_request *request,
                            struct control_response *response, struct error *err)
{
	(void)table;
	(void)response;
	return error_set(err, -ENOTSUP,
	                 "%s is for postcopy-sourced on the source host; this is postcopyd",
	                 control_request_type_name(request->type));
}

static const request_fn request_fns[] = {
        [CONTROL_REQUEST_START] = run_start,
        [CONTROL_REQUEST_LIST] = run_list,
        [CONTROL_REQUEST_GET] = run_get,
        [CONTROL_REQUEST_CANCEL] = run_cancel,
        [CONTROL_REQUEST_RECOVER] = run_recover,
        [CONTROL_REQUEST_SET_LIMITS] = run_set_limits,
        [CONTROL_REQUEST_PROBE] = run_probe,
        [CONTROL_REQUEST_EXPORT_PROCESS] = run_other_daemon,
        [CONTROL_REQUEST_EXPORT_FILE] = run_other_daemon,
        [CONTROL_REQUEST_FREEZE] = run_other_daemon,
};

bool control_request_changes(enum control_request_type type)
{
	return type != CONTROL_REQUEST_LIST && type != CONTROL_REQUEST_GET &&
	       type != CONTROL_REQUEST_PROBE;
}

int control_request_run(struct migration_table *table, const struct control_request *request,
                        struct control_response *ret_response, struct error *err)
{
	struct control_response response = {0};
	int r;

	if ((size_t)request->type >= ARRAY_SIZE(request_fns) || !request_fns[request->type])
		return error_set(err, -ENOTSUP, "postcopyd does not know this request (%s)",
		                 control_request_type_name(request->type));
	r = request_fns[request->type](table, request, &response, err);
	if (r < 0) {
		control_response_free(&response);
		return r;
	}
	*ret_response = response;
	return 0;
}
