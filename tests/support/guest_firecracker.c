/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test guest as Firecracker: it makes and registers the userfaultfd itself, sends one
 * JSON message with it to the socket that it was told of, hears nothing, and runs on at
 * once. What differs between the versions (v1.1, v1.7, v1.12, v1.16) is what each of them
 * does: src/vmm/src/persist.rs and memory_snapshot.rs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "core/uffd_abi.h"
#include "support/guest.h"
#include "support/guest_touch.h"

#define MESSAGE_MAX 4096

/* Offsets are those in the snapshot's memory file: one region after the other. */
static size_t message_make(const struct guest *g, char *buf)
{
	size_t len = 0;

	for (size_t i = 0; i < g->n_regions; i++) {
		const struct guest_region *r = &g->regions[i];
		unsigned long long page_size = guest_region_page_size(r);

		len += (size_t)snprintf(buf + len, MESSAGE_MAX - len,
		                        "%c{\"base_host_virt_addr\":%llu,\"size\":%llu,"
		                        "\"offset\":%llu",
		                        i ? ',' : '[', (unsigned long long)(uintptr_t)r->address,
		                        (unsigned long long)r->length,
		                        (unsigned long long)r->first_page * PATTERN_PAGE);
		if (g->firecracker >= 12)
			len += (size_t)snprintf(buf + len, MESSAGE_MAX - len, ",\"page_size\":%llu",
			                        page_size);
		if (g->firecracker >= 7) /* in bytes */
			len += (size_t)snprintf(buf + len, MESSAGE_MAX - len,
			                        ",\"page_size_kib\":%llu", page_size);
		len += (size_t)snprintf(buf + len, MESSAGE_MAX - len, "}");
	}
	return len + (size_t)snprintf(buf + len, MESSAGE_MAX - len, "]");
}

/* Removals are told of always since v1.12, before only if there is a balloon. */
static int uffd_make(const struct guest *g)
{
	struct uffdio_api api = {.api = UFFD_API};
	int uffd = postcopy_uffd_open(0);

	if (uffd < 0)
		return uffd;
	if (g->firecracker >= 12 || g->balloon)
		api.features = UFFD_FEATURE_EVENT_REMOVE;
	if (fcntl(uffd, F_SETFL, O_NONBLOCK) < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		return -errno;
	for (size_t i = 0; i < g->n_regions; i++) {
		struct uffdio_register reg = {
		        .range = {(uintptr_t)g->regions[i].address, g->regions[i].length},
		        .mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
			return -errno;
	}
	return uffd;
}

/* The socket stays open since v1.12. */
static int call(const struct guest *g, int uffd)
{
	struct error err = {0};
	char message[MESSAGE_MAX];
	size_t len = message_make(g, message);
	int sock = unix_connect(g->driven.socket_path, &err);
	ssize_t n;

	if (sock < 0) {
		fprintf(stderr, "testguest: %s\n", err.text);
		return sock;
	}
	n = fdpass_send(sock, message, len, &uffd, 1, 0);
	if (n != (ssize_t)len)
		fprintf(stderr, "testguest: sent %zd of %zu bytes\n", n, len);
	if (g->firecracker < 12)
		close(sock);
	driven_event("attached", "%llu", (unsigned long long)g->n_pages);
	return n == (ssize_t)len ? 0 : -EIO;
}

int guest_firecracker_run(struct guest *g)
{
	struct guest_touch *touch;
	char line[64];
	int uffd = uffd_make(g);

	if (uffd < 0) {
		fprintf(stderr, "testguest: userfaultfd: %s\n", strerror(-uffd));
		return GUEST_SKIP;
	}
	if (call(g, uffd) < 0)
		return GUEST_REFUSED;
	if (guest_touch_new(g, &touch) < 0 || guest_touch_start(touch) < 0)
		return GUEST_USAGE;
	while (!guest_touch_done(touch, 1000))
		;
	driven_event("touched", "%llu", (unsigned long long)g->n_pages);
	/* It has no way to know that all is here: the driver says so. */
	if (!fgets(line, sizeof(line), stdin))
		return GUEST_USAGE;
	return guest_touch_verify(touch) ? GUEST_WRONG : GUEST_OK;
}
