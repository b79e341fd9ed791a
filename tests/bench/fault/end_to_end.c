/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thing itself: a fault in this process, which is the guest of a migration
 * between the real programs on loopback. The stream is held off by a bandwidth
 * of one page a second, so each touched page comes by way of its fault; a page
 * that the stream brought nevertheless is left out and counted.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "postcopy.h"
#include "support/pattern.h"

#define REGION_BYTES (UINT64_C(512) << 20)
#define N_PAGES (REGION_BYTES / BENCH_PAGE)
#define SEED 1
#define MIGRATION_ID "6b7e8b34-5d1c-4a39-9a51-b8c0a6f5d7e2"
#define TOKEN_HEX "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define WAIT_MS 20000
#define HERE_ALREADY_NS 900 /* no fault with an ioctl by another process is as fast */

static uint8_t *memory;
static uint64_t next_index;

static int free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = -EADDRINUSE;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 &&
	    getsockname(fd, (struct sockaddr *)&address, &len) == 0)
		port = ntohs(address.sin_port);
	close(fd);
	return port;
}

static int write_file(const struct bench *b, const char *name, const char *text)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", b->dir, name);
	file = fopen(path, "we");
	if (!file || fputs(text, file) < 0)
		return -errno;
	return fclose(file) ? -errno : 0;
}

static int write_configuration(const struct bench *b, int port)
{
	char text[2048], cpus[64] = "";
	int ret;

	if (b->cpu >= 0)
		snprintf(cpus, sizeof(cpus), "[lanes]\nurgent_cpus = %d\nbulk_cpus = %d\n", b->cpu,
		         b->cpu);
	snprintf(text, sizeof(text),
	         "[tls]\ncertificate = %1$s/pki/source.pem\nkey = %1$s/pki/source.key\n"
	         "ca = %1$s/pki/ca.pem\n[listen]\naddress = 127.0.0.1:%2$d\n"
	         "[sockets]\ncontrol = %1$s/source.sock\nexport = %1$s/export.sock\n"
	         "[log]\ntarget = stderr\n",
	         b->dir, port);
	ret = write_file(b, "source.conf", text);
	snprintf(text, sizeof(text),
	         "[tls]\ncertificate = %1$s/pki/destination.pem\nkey = %1$s/pki/destination.key\n"
	         "ca = %1$s/pki/ca.pem\n"
	         "[sockets]\ncontrol = %1$s/control.sock\nattach = %1$s/attach.sock\n"
	         "status = %1$s/status.sock\n[log]\ntarget = stderr\n%2$s",
	         b->dir, cpus);
	ret = ret ? ret : write_file(b, "daemon.conf", text);
	return ret ? ret : write_file(b, "token", TOKEN_HEX "\n");
}

static bool socket_answers(const struct bench *b, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool answers;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", b->dir, name);
	answers = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
	close(fd);
	return answers;
}

static bool log_has_frozen(const struct bench *b, const char *name)
{
	char path[128], line[512];
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s.log", b->dir, name);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file))
		found = strncmp(line, "frozen ", 7) == 0;
	fclose(file);
	return found;
}

/* Other programs' readiness has no event for us: look every 10 ms. */
static int wait_for(const struct bench *b, bool (*ready)(const struct bench *, const char *),
                    const char *name)
{
	for (int i = 0; i < WAIT_MS / 10; i++) {
		if (ready(b, name))
			return 0;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	fprintf(stderr, "bench-fault: %s is not ready\n", name);
	return -ETIMEDOUT;
}

static int start_daemons(struct bench *b)
{
	char source[128], daemon[128];
	int ret;

	snprintf(source, sizeof(source), "%s/source.conf", b->dir);
	snprintf(daemon, sizeof(daemon), "%s/daemon.conf", b->dir);
	ret = bench_spawn(b, "postcopy-sourced",
	                  (const char *const[]){POSTCOPY_SOURCED, "--config", source, NULL});
	ret = ret ? ret
	          : bench_spawn(b, "postcopyd",
	                        (const char *const[]){POSTCOPYD, "--config", daemon, NULL});
	ret = ret ? ret : wait_for(b, socket_answers, "export.sock");
	ret = ret ? ret : wait_for(b, socket_answers, "attach.sock");
	return ret ? ret : wait_for(b, socket_answers, "control.sock");
}

static int start_source_guest(struct bench *b)
{
	char socket_path[128], token[128];
	const char *region = b->memfd ? "ram0:memfd:512M" : "ram0:anon:512M";
	const char *const argv[] = {TESTGUEST,
	                            "source",
	                            "--id",
	                            MIGRATION_ID,
	                            "--token-file",
	                            token,
	                            "--socket",
	                            socket_path,
	                            "--region",
	                            region,
	                            "--seed",
	                            "1",
	                            "--peer-identity",
	                            "destination.postcopy.example",
	                            "--timeout",
	                            "600",
	                            "--freeze",
	                            NULL};
	int ret;

	snprintf(socket_path, sizeof(socket_path), "%s/export.sock", b->dir);
	snprintf(token, sizeof(token), "%s/token", b->dir);
	ret = bench_spawn(b, "source-guest", argv);
	return ret ? ret : wait_for(b, log_has_frozen, "source-guest");
}

static int start_migration(struct bench *b, int port)
{
	char control[128], token[128], source[64];
	const char *const argv[] = {POSTCOPYCTL,    "--socket",   control,
	                            "start",        MIGRATION_ID, "--source",
	                            source,         "--peer",     "source.postcopy.example",
	                            "--token-file", token,        "--bandwidth",
	                            "4096",         NULL};

	snprintf(control, sizeof(control), "%s/control.sock", b->dir);
	snprintf(token, sizeof(token), "%s/token", b->dir);
	snprintf(source, sizeof(source), "127.0.0.1:%d", port);
	return bench_run(b, "postcopyctl", argv);
}

static int attach(struct bench *b)
{
	int fd = b->memfd ? memfd_create("guest", MFD_CLOEXEC) : -1, uffd = postcopy_uffd_open(0);
	int flags = b->memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	struct postcopy_region region = {
	        .name = "ram0",
	        .length = REGION_BYTES,
	        .page_size = BENCH_PAGE,
	        .backing = b->memfd ? POSTCOPY_BACKING_MEMFD : POSTCOPY_BACKING_ANONYMOUS,
	        .mode = POSTCOPY_MODE_MISSING,
	        .memory_fd = fd,
	};
	struct postcopy_attach_params params = {
	        .uffds = &uffd, .n_uffds = 1, .regions = &region, .n_regions = 1};
	char path[128], text[384] = "";
	struct postcopy *handle;
	uint8_t token[32];
	int ret;

	if (uffd < 0 || (b->memfd && (fd < 0 || ftruncate(fd, (off_t)REGION_BYTES) < 0)))
		return uffd < 0 ? uffd : -errno;
	memory = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	for (uint8_t i = 0; i < sizeof(token); i++)
		token[i] = i;
	region.address = memory;
	snprintf(path, sizeof(path), "%s/attach.sock", b->dir);
	params.socket_path = path;
	params.token = token;
	params.token_len = sizeof(token);
	postcopy_uuid_parse(MIGRATION_ID, params.migration_id);
	ret = postcopy_attach(&params, &handle, text, sizeof(text));
	if (ret < 0)
		return fprintf(stderr, "bench-fault: attach: %s\n", text), ret;
	return postcopy_wait(handle, POSTCOPY_STATE_BIT(POSTCOPY_STATE_POSTCOPY_ACTIVE), WAIT_MS);
}

static int end_to_end_setup(struct bench *b)
{
	int port = free_port(), ret;

	if (b->rounds * b->samples > N_PAGES / 2)
		return fprintf(stderr, "bench-fault: at most %llu samples in all\n",
		               (unsigned long long)N_PAGES / 2),
		       -E2BIG;
	if (port < 0)
		return port;
	ret = write_configuration(b, port);
	ret = ret ? ret : start_daemons(b);
	ret = ret ? ret : start_source_guest(b);
	ret = ret ? ret : start_migration(b, port);
	ret = ret ? ret : attach(b);
	if (ret < 0) {
		bench_print_log(b, "postcopy-sourced");
		bench_print_log(b, "postcopyd");
		bench_print_log(b, "source-guest");
		bench_print_log(b, "postcopyctl");
	}
	return ret;
}

/* Every page once, far from the one before, without the zero pages. */
static struct pattern_page next_page(void)
{
	struct pattern_page pp = {.seed = SEED};

	do
		pp.page = next_index++ * UINT64_C(0x9e3779b1) % N_PAGES;
	while (pattern_is_zero(&pp));
	return pp;
}

static int end_to_end_round(struct bench *b, uint64_t *ret_ns)
{
	for (size_t i = 0; i < b->samples;) {
		struct pattern_page pp = next_page();
		uint8_t *address = memory + pp.page * BENCH_PAGE;
		uint64_t start = bench_now_ns(), ns;

		(void)*(volatile uint8_t *)address;
		ns = bench_now_ns() - start;
		if (pattern_verify(&pp, address, PATTERN_WORD0_ORIGINAL) >= 0)
			return fprintf(stderr, "bench-fault: wrong bytes in page %llu\n",
			               (unsigned long long)pp.page),
			       -EIO;
		if (ns < HERE_ALREADY_NS)
			b->dropped++;
		else
			ret_ns[i++] = ns;
	}
	return 0;
}

const struct bench_case end_to_end = {"end to end", "a guest's fault through the real programs",
                                      end_to_end_setup, end_to_end_round};
