/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the file descriptor that faults come from. Called at attach, by the
 * lane's urgent thread (read), and at the end (unregister). Knows nothing of
 * pages or regions.
 */
#include "daemon/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/fdpass.h"

/* Set in the features of fdinfo once the handshake was done (fs/userfaultfd.c). */
#define FEATURE_INITIALIZED (UINT64_C(1) << 31)

/* A child of the VMM has no place in a guest's memory map, and a guest cannot go on with SIGBUS. */
#define FEATURES_REFUSED (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_SIGBUS)
/*
 * Without the event of a move the kernel takes moved memory out of the userfaultfd: its
 * missing pages would be zeros (measured on 6.18).
 */
#define EVENTS_WANTED (UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_REMAP)

#define EVENTS_SERVED (EVENTS_WANTED | UFFD_FEATURE_EVENT_UNMAP)

/*
 * "API:\taa:FEATURES:IOCTLS" of /proc/self/fdinfo: the features that the owner
 * turned on. There is no ioctl that tells.
 */
static int read_features(int fd, uint64_t *ret, struct error *err)
{
	char path[64], text[512];
	_cleanup_close_ int info = -1;
	const char *line;
	uint64_t features;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return error_set_errno(err, -errno, "%s", path);
	n = read(info, text, sizeof(text) - 1);
	if (n < 0)
		return error_set_errno(err, -errno, "%s", path);
	text[n] = '\0';
	line = strstr(text, "API:");
	if (!line || sscanf(line, "API: %*x:%" SCNx64 ":", &features) != 1)
		return error_set(err, -EPROTO, "%s has no API line", path);
	*ret = features;
	return 0;
}

static int api_handshake(int fd, uint64_t features, uint64_t *ret_available)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	*ret_available = api.features;
	return 0;
}

/*
 * The kernel leaves a uffd as it was when it refuses a handshake (measured on
 * 6.18), so one with fewer features follows on the same fd: we could not make
 * another, it must come from the VMM.
 */
static int handshake(int fd, bool events, struct uffd_info *info, struct error *err)
{
	const uint64_t wanted_events = events ? EVENTS_WANTED : 0;
	const uint64_t wanted[] = {UFFD_FEATURE_POISON | wanted_events, wanted_events, 0};
	uint64_t available = 0;
	int rc = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(wanted) && rc == -EINVAL; i++) {
		rc = api_handshake(fd, wanted[i], &available);
		if (rc == 0)
			info->features = wanted[i];
	}
	if (rc < 0)
		return error_set_errno(err, rc, "userfaultfd API handshake");
	info->poison_supported = available & UFFD_FEATURE_POISON;
	return 0;
}

/*
 * Does the kernel know UFFDIO_POISON, on a uffd whose handshake the VMM did
 * without asking for it? (It works all the same then: measured on 6.18.) A
 * kernel without it answers EINVAL to the unknown request; one with it cannot
 * read the argument: EFAULT, or EAGAIN while the mapping changes. No address is
 * named, because kernels differ in what they say to one (6.1 refuses those below
 * vm.mmap_min_addr with EINVAL, 6.18 does not).
 */
static bool poison_ioctl_known(int fd)
{
	return ioctl(fd, UFFDIO_POISON, NULL) < 0 && errno != EINVAL && errno != ENOTTY;
}

static int adopt(int fd, bool events, struct uffd_info *ret, struct error *err)
{
	struct uffd_info info = {0};
	int flags, rc;

	if (!fd_is_userfaultfd(fd))
		return error_set(err, -EINVAL, "the descriptor is not a userfaultfd");
	rc = read_features(fd, &info.features, err);
	if (rc < 0)
		return rc;
	info.handshake_was_done = info.features & FEATURE_INITIALIZED;
	info.features &= ~FEATURE_INITIALIZED;
	if (info.features & FEATURES_REFUSED)
		return error_set(err, -EINVAL,
		                 "the userfaultfd has features on that a guest's memory cannot be "
		                 "served with (0x%" PRIx64 "): fork or SIGBUS; open it without "
		                 "them, and keep the memory from children by MADV_DONTFORK",
		                 info.features & FEATURES_REFUSED);
	if (!events && (info.features & EVENTS_SERVED))
		return error_set(err, -EINVAL,
		                 "the userfaultfd of a further mapping has events on (0x%" PRIx64
		                 "), which nobody would read: open it without them",
		                 info.features & EVENTS_SERVED);
	rc = info.handshake_was_done ? 0 : handshake(fd, events, &info, err);
	if (rc < 0)
		return rc;
	if (info.handshake_was_done)
		info.poison_supported =
		        (info.features & UFFD_FEATURE_POISON) || poison_ioctl_known(fd);
	info.remove_events = info.features & (UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP);
	info.remap_events = info.features & UFFD_FEATURE_EVENT_REMAP;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_set_errno(err, -errno, "make the userfaultfd non-blocking");
	*ret = info;
	return 0;
}

int uffd_adopt(int fd, struct uffd_info *ret, struct error *err)
{
	return adopt(fd, true, ret, err);
}

int uffd_adopt_mapping(int fd, struct uffd_info *ret, struct error *err)
{
	return adopt(fd, false, ret, err);
}

static const char *register_advice(int err)
{
	switch (err) {
	case EBUSY:
		return "another userfaultfd is registered there";
	case ENOMEM:
		return "nothing is mapped there, or the VMM is gone";
	case EINVAL:
		return "the range is not mapped as a whole, or that kind of memory cannot be "
		       "registered in this mode";
	case EPERM:
		return "the mapping must be writable";
	default:
		return "UFFDIO_REGISTER failed";
	}
}

int uffd_register(int fd, hva_t start, uint64_t length_bytes, bool minor, uint64_t *ret_ioctls,
                  struct error *err)
{
	struct uffdio_register reg = {
	        .range = {.start = start.addr, .len = length_bytes},
	        .mode = UFFDIO_REGISTER_MODE_MISSING | (minor ? UFFDIO_REGISTER_MODE_MINOR : 0),
	};

	if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0) {
		int rc = -errno;

		return error_set_errno(err, rc, "register 0x%" PRIx64 "+%" PRIu64 ": %s",
		                       start.addr, length_bytes, register_advice(-rc));
	}
	*ret_ioctls = reg.ioctls;
	return 0;
}

int uffd_unregister(int fd, hva_t start, uint64_t length_bytes)
{
	struct uffdio_range range = {.start = start.addr, .len = length_bytes};

	return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

/* That is what the kernel looks at first, whatever the arguments (measured on 6.18). */
bool uffd_changing(int fd)
{
	struct uffdio_copy nothing = {0};

	return ioctl(fd, UFFDIO_COPY, &nothing) < 0 && errno == EAGAIN;
}

int uffd_read(int fd, struct uffd_msg *msgs, size_t max)
{
	ssize_t n;

	do
		n = read(fd, msgs, max * sizeof(*msgs));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (int)((size_t)n / sizeof(*msgs));
}
