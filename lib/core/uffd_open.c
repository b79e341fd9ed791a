/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting a userfaultfd. Called by libpostcopy, by postcopyctl's probe and by
 * tests; the daemons receive theirs from VMMs.
 */
#include "core/uffd_open.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/uffd_abi.h"

int uffd_open_device(void)
{
	_cleanup_close_ int device = open(UFFD_DEVICE_PATH, O_RDWR | O_CLOEXEC);
	int uffd;

	if (device < 0)
		return -errno;
	uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return uffd < 0 ? -errno : uffd;
}

int uffd_open_syscall(void)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	return uffd < 0 ? -errno : uffd;
}

int uffd_open(void)
{
	int by_device = uffd_open_device();
	int by_syscall;

	if (by_device >= 0 || by_device == -EMFILE || by_device == -ENFILE || by_device == -ENOMEM)
		return by_device;
	by_syscall = uffd_open_syscall();
	if (by_syscall == -EPERM && by_device == -EACCES)
		return by_device;
	return by_syscall;
}

int uffd_negotiate(int uffd, uint64_t features, uint64_t *ret_features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};

	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return -errno;
	*ret_features = api.features;
	return 0;
}

int uffd_features(uint64_t *ret_features)
{
	_cleanup_close_ int uffd = uffd_open();

	return uffd < 0 ? uffd : uffd_negotiate(uffd, 0, ret_features);
}
