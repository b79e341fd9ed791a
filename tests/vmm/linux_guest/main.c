/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linux-guest: all that runs in the Linux guest of the tests, started by init.
 *
 *     linux-guest MEMORY-MIB DISK PEER-ADDRESS PEER-PORT
 *
 * It checks its memory, its disk and its network without an end, and knows
 * nothing of migrations. Every half second it says a line on the serial port, and
 * a part that finds a wrong byte says so and stops. The host may say there:
 *
 *     mark    count touches from now on
 *     report  what the touches since the mark were like
 */
#include "guest.h"
#include "stall.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SERIAL "/dev/ttyS0"
#define INTERVAL_MS 500

static int serial_fd = STDOUT_FILENO;
static uint64_t n_wrong[GUEST_PARTS];
static pthread_mutex_t serial_lock = PTHREAD_MUTEX_INITIALIZER;

static void serial_write(const char *text, size_t len_bytes)
{
	while (len_bytes) {
		ssize_t n = write(serial_fd, text, len_bytes);

		if (n <= 0)
			return;
		text += n;
		len_bytes -= (size_t)n;
	}
}

static void say(const char *prefix, const char *format, va_list arguments)
{
	char line[512];
	int n = snprintf(line, sizeof(line), "%s", prefix);

	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 2, format, arguments);
	if (n > (int)sizeof(line) - 3)
		n = sizeof(line) - 3;
	line[n++] = '\r';
	line[n++] = '\n';
	serial_write(line, (size_t)n);
}

void guest_say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	pthread_mutex_lock(&serial_lock);
	say("", format, arguments);
	pthread_mutex_unlock(&serial_lock);
	va_end(arguments);
}

void guest_wrong(enum guest_part part, const char *format, ...)
{
	va_list arguments;

	count(&n_wrong[part], 1);
	va_start(arguments, format);
	pthread_mutex_lock(&serial_lock);
	say("WRONG ", format, arguments);
	pthread_mutex_unlock(&serial_lock);
	va_end(arguments);
	for (;;)
		pause();
}

void guest_broken(const char *what)
{
	guest_say("BROKEN %s: %s", what, strerror(errno));
	exit(1);
}

void guest_thread(void *(*run)(void *), void *argument, int cpu, bool real_time)
{
	struct sched_param priority = {.sched_priority = 1};
	pthread_attr_t attributes;
	pthread_t thread;
	cpu_set_t cpus;

	pthread_attr_init(&attributes);
	if (cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET(cpu, &cpus);
		pthread_attr_setaffinity_np(&attributes, sizeof(cpus), &cpus);
	}
	if (real_time) {
		pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
		pthread_attr_setschedparam(&attributes, &priority);
	}
	errno = pthread_create(&thread, &attributes, run, argument);
	if (errno)
		guest_broken("thread");
	pthread_attr_destroy(&attributes);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static unsigned long long wrong(enum guest_part part)
{
	return counted(&n_wrong[part]);
}

static void progress_say(void)
{
	struct guest_counts memory, disk;
	struct packet_counts packets;
	struct stall_summary stall;

	memory_counts(&memory);
	disk_counts(&disk);
	packet_counts(&packets);
	stall_read(STALL_INTERVAL, &stall);
	stall_clear(STALL_INTERVAL);
	guest_say("%llu ms: pass %llu, %llu pages right, %llu wrong; disk %llu right, %llu wrong; "
	          "net %llu right, %llu lost, %llu wrong; touch p99 %.0f us, max %.0f us",
	          (unsigned long long)now_ms(), (unsigned long long)memory.n_passes,
	          (unsigned long long)memory.n_right, wrong(GUEST_MEMORY),
	          (unsigned long long)disk.n_right, wrong(GUEST_DISK),
	          (unsigned long long)packets.n_right, (unsigned long long)packets.n_lost,
	          wrong(GUEST_NET), stall.p99_us, stall.max_us);
}

static void report_say(void)
{
	struct stall_summary s;

	stall_read(STALL_SINCE_MARK, &s);
	guest_say("report touches %llu stalls %llu p99_us %.1f stall_p50_us %.1f "
	          "stall_p99_us %.1f max_us %.1f stalled_ms %.1f",
	          (unsigned long long)s.n_touches, (unsigned long long)s.n_stalls, s.p99_us,
	          s.stall_p50_us, s.stall_p99_us, s.max_us, s.stalled_ms);
}

static void command_do(const char *command)
{
	if (!strcmp(command, "mark")) {
		stall_clear(STALL_SINCE_MARK);
		guest_say("marked");
	} else if (!strcmp(command, "report")) {
		report_say();
	}
}

/* Whole lines; what is longer than any command is none. */
static void commands_read(void)
{
	static char line[32];
	static size_t len;
	char byte;

	while (read(serial_fd, &byte, 1) == 1) {
		if (byte != '\n' && len < sizeof(line) - 1) {
			line[len++] = byte;
			continue;
		}
		line[len] = '\0';
		len = 0;
		command_do(line);
	}
}

static void serial_open(void)
{
	struct termios raw;
	int fd = open(SERIAL, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || tcgetattr(fd, &raw))
		guest_broken(SERIAL);
	cfmakeraw(&raw);
	raw.c_cc[VMIN] = 0; /* read() never waits, write() does */
	raw.c_cc[VTIME] = 0;
	if (tcsetattr(fd, TCSANOW, &raw))
		guest_broken(SERIAL);
	serial_fd = fd;
}

static void serve(void)
{
	struct pollfd serial = {.fd = serial_fd, .events = POLLIN};
	uint64_t due = now_ms() + INTERVAL_MS;

	for (;;) {
		uint64_t now = now_ms();

		if (now >= due) {
			progress_say();
			due = now + INTERVAL_MS;
		}
		if (poll(&serial, 1, (int)(due - now)) > 0)
			commands_read();
	}
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: %s MEMORY-MIB DISK PEER-ADDRESS PEER-PORT\n", argv[0]);
		return 2;
	}
	serial_open();
	stall_calibrate();
	memory_start((unsigned)atoi(argv[1]));
	disk_start(argv[2]);
	packet_start(argv[3], (uint16_t)atoi(argv[4]));
	guest_say("ready");
	serve();
}
