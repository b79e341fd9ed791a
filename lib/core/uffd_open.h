/* SPDX-License-Identifier: Apache-2.0 */
/* Getting a userfaultfd, by the two ways there are. */
#ifndef CORE_UFFD_OPEN_H
#define CORE_UFFD_OPEN_H

#include <stdint.h>

#define UFFD_DEVICE_PATH "/dev/userfaultfd"

/*
 * A raw userfaultfd (before UFFDIO_API), close-on-exec and non-blocking, for
 * kernel-mode faults too. -errno: -EPERM, -EACCES, -ENOENT (no such device),
 * -ENOSYS, -EMFILE ...
 */
int uffd_open_device(void);
int uffd_open_syscall(void);

/*
 * The device, and where that is absent or forbidden the system call. When both
 * fail, the device's error tells more if the device exists.
 */
int uffd_open(void);

/*
 * UFFDIO_API with the features; a fd on which it failed cannot be used again.
 * 0 and the kernel's features, or -EINVAL when it lacks one of those asked for.
 */
int uffd_negotiate(int uffd, uint64_t features, uint64_t *ret_features);

/* What the kernel has, asked on a userfaultfd that is not kept. */
int uffd_features(uint64_t *ret_features);

#endif
