/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to the operator's requests. Called by the control server, main loop. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "net/tls.h"
#include "source/control_connection.h"
#include "source/control_report.h"

#define LIST_MAX 1024 /* of the interface, in one message */

static int do_list(struct control_client *c, struct control_response *response, struct error *err)
{
	struct export *e, *next;
	size_t n = MIN((size_t)HASH_COUNT(c->exports->by_id), (size_t)LIST_MAX);

	response->type = CONTROL_RESPONSE_LIST;
	if (n == 0)
		return 0;
	response->migrations = calloc(n, sizeof(*response->migrations));
	if (!response->migrations)
		return error_set(err, -ENOMEM, "not enough memory for the list");
	HASH_ITER (hh, c->exports->by_id, e, next) {
		if (response->n_migrations == n)
			break;
		if (control_report(e, CONTROL_BRIEF,
		                   &response->migrations[response->n_migrations]) < 0)
			return error_set(err, -ENOMEM, "not enough memory for the list");
		response->n_migrations++;
	}
	return 0;
}

static int do_get(struct export *e, struct control_response *response, struct error *err)
{
	response->migrations = calloc(1, sizeof(*response->migrations));
	if (!response->migrations || control_report(e, CONTROL_FULL, response->migrations) < 0)
		return error_set(err, -ENOMEM, "not enough memory for the answer");
	response->type = CONTROL_RESPONSE_MIGRATION;
	response->n_migrations = 1;
	return 0;
}

static struct export_region *process_regions(const struct control_request *q)
{
	size_t n = q->export_process.n_ranges;
	struct export_region *regions = calloc(n ? n : 1, sizeof(*regions));

	for (size_t i = 0; regions && i < n; i++) {
		const struct process_range *from = &q->export_process.ranges[i];

		memcpy(regions[i].name, from->name, sizeof(regions[i].name));
		regions[i].gpa = from->gpa;
		regions[i].length_bytes = from->length_bytes;
		regions[i].page_size_bytes = from->page_size_bytes;
		regions[i].backing = BACKING_ANONYMOUS;
		regions[i].fd_offset.off = from->hva.addr;
	}
	return regions;
}

static int do_export_process(struct control_client *c, const struct control_request *q,
                             struct error *err)
{
	_cleanup_free_ struct export_region *regions = process_regions(q);
	_cleanup_close_ int fd = -1;
	struct export *e;
	char who[64];
	struct export_params params = {
	        .id = &q->migration_id,
	        .token = q->export_process.token,
	        .token_len = q->export_process.token_len,
	        .peer_identity = q->export_process.peer_identity,
	        .regions = regions,
	        .n_regions = q->export_process.n_ranges,
	        .exporter = who,
	        .connection_fd = -1,
	};

	(void)snprintf(who, sizeof(who), "operator, for pid %d", (int)q->export_process.pid);
	if (!regions)
		return error_set(err, -ENOMEM, "not enough memory for the regions");
	if (tls_identity_validate(q->export_process.peer_identity, err) < 0)
		return error_prefix(err, "peer identity");
	fd = memory_open_process(q->export_process.pid, err);
	if (fd < 0)
		return fd;
	int r = export_table_add(c->exports, &params, &fd, 1, &e, err);

	if (r == 0)
		export_unref(e);
	return r;
}

static struct export_region *file_regions(const struct control_request *q)
{
	size_t n = q->export_file.n_ranges;
	struct export_region *regions = calloc(n ? n : 1, sizeof(*regions));

	for (size_t i = 0; regions && i < n; i++) {
		const struct file_range *from = &q->export_file.ranges[i];

		memcpy(regions[i].name, from->name, sizeof(regions[i].name));
		regions[i].gpa = from->gpa;
		regions[i].length_bytes = from->length_bytes;
		regions[i].page_size_bytes = from->page_size_bytes;
		regions[i].backing = BACKING_MEMFD;
		regions[i].fd_offset = from->offset;
	}
	return regions;
}

/* What is lost is known before anybody can ask. */
static int file_serve(struct export *e, const struct control_request *q, struct error *err)
{
	int r = 0;

	if (q->export_file.n_poisoned > 0)
		r = export_report_poison(e, q->export_file.poisoned, q->export_file.n_poisoned,
		                         POISON_BY_OPERATOR, err);
	if (r == 0)
		r = export_freeze(e, err);
	if (r < 0)
		(void)export_withdraw(e, true, "postcopy-sourced: it could not be served", NULL);
	return r;
}

static int do_export_file(struct control_client *c, const struct control_request *q,
                          struct error *err)
{
	_cleanup_free_ struct export_region *regions = file_regions(q);
	struct export *e;
	char who[64];
	struct export_params params = {
	        .id = &q->migration_id,
	        .token = q->export_file.token,
	        .token_len = q->export_file.token_len,
	        .peer_identity = q->export_file.peer_identity,
	        .regions = regions,
	        .n_regions = q->export_file.n_ranges,
	        .exporter = who,
	        .connection_fd = -1,
	};
	int r;

	(void)snprintf(who, sizeof(who), "operator (uid %u), a file", (unsigned)c->peer.uid);
	if (!regions)
		return error_set(err, -ENOMEM, "not enough memory for the regions");
	if (c->n_fds != 1)
		return error_set(err, -EINVAL,
		                 "%zu descriptors came with the request: expected the file alone",
		                 c->n_fds);
	if (tls_identity_validate(q->export_file.peer_identity, err) < 0)
		return error_prefix(err, "peer identity");
	r = export_table_add(c->exports, &params, c->fds, 1, &e, err);
	if (r < 0)
		return r;
	r = file_serve(e, q, err);
	export_unref(e);
	return r;
}

/* Requests about one export that there must be. */
static int do_one(struct control_client *c, const struct control_request *q,
                  struct control_response *response, struct error *err)
{
	char who[64];
	struct export *e;
	int r = export_table_get(c->exports, &q->migration_id, &e, err);

	if (r < 0)
		return r;
	switch (q->type) {
	case CONTROL_REQUEST_GET:
		return do_get(e, response, err);
	case CONTROL_REQUEST_CANCEL:
		(void)snprintf(who, sizeof(who), "the operator (uid %u)", (unsigned)c->peer.uid);
		return export_withdraw(e, q->cancel.force, who, err);
	case CONTROL_REQUEST_FREEZE:
		return export_freeze(e, err);
	default:
		return export_report_poison(e, q->poison.ranges, q->poison.n_ranges,
		                            POISON_BY_OPERATOR, err);
	}
}

static int do_request(struct control_client *c, const struct control_request *q,
                      struct control_response *response, struct error *err)
{
	switch (q->type) {
	case CONTROL_REQUEST_LIST:
		return do_list(c, response, err);
	case CONTROL_REQUEST_WATCH:
		return control_watch_add(c, q, err);
	case CONTROL_REQUEST_EXPORT_PROCESS:
		return do_export_process(c, q, err);
	case CONTROL_REQUEST_EXPORT_FILE:
		return do_export_file(c, q, err);
	case CONTROL_REQUEST_GET:
	case CONTROL_REQUEST_CANCEL:
	case CONTROL_REQUEST_FREEZE:
	case CONTROL_REQUEST_POISON:
		return do_one(c, q, response, err);
	default:
		return error_set(err, -EOPNOTSUPP,
		                 "this is postcopy-sourced: %s is a request to postcopyd, on the "
		                 "host that receives the guest",
		                 control_request_type_name(q->type));
	}
}

static void response_release(struct control_response *response)
{
	for (size_t i = 0; i < response->n_migrations; i++)
		control_migration_free(&response->migrations[i]);
	free(response->migrations);
	response->migrations = NULL;
	response->n_migrations = 0;
}

void control_client_request(struct control_client *c, const struct control_request *q)
{
	struct control_response response = {.id = q->id};
	struct error err = {0};
	int r = do_request(c, q, &response, &err);

	if (r < 0) {
		response_release(&response);
		response.type = CONTROL_RESPONSE_PLAIN;
		response.error = -r;
		(void)snprintf(response.text, sizeof(response.text), "%s", err.text);
		log_info("%s of uid %u refused: %s", control_request_type_name(q->type),
		         (unsigned)c->peer.uid, err.text);
	}
	control_client_send(c, &response);
	response_release(&response);
}
