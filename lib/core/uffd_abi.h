/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of userfaultfd's kernel interface that Debian 12's headers (6.1)
 * lack: UFFDIO_POISON (Linux 6.6) and /dev/userfaultfd (6.1). Include this
 * instead of <linux/userfaultfd.h>.
 *
 * Whether the running kernel has them is asked at run time. UFFDIO_COPY and
 * UFFDIO_CONTINUE overwrite a poison marker without a word; UFFDIO_POISON and
 * UFFDIO_ZEROPAGE refuse with EEXIST where something is mapped, and do not wake
 * the faulting thread then.
 */
#ifndef CORE_UFFD_ABI_H
#define CORE_UFFD_ABI_H

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif

#ifndef _UFFDIO_POISON
#define _UFFDIO_POISON (0x08)

struct uffdio_poison {
	struct uffdio_range range;
#define UFFDIO_POISON_MODE_DONTWAKE ((__u64)1 << 0)
	__u64 mode;
	__s64 updated; /* written by the kernel: bytes done, or a negative errno */
};
#endif

#ifndef UFFDIO_POISON
#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
#endif

#ifndef USERFAULTFD_IOC
#define USERFAULTFD_IOC 0xAA
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(USERFAULTFD_IOC, 0x00)
#endif

_Static_assert(UFFDIO_POISON == 0xC020AA08, "UFFDIO_POISON differs from the kernel's");
_Static_assert(USERFAULTFD_IOC_NEW == 0xAA00, "USERFAULTFD_IOC_NEW differs from the kernel's");

#endif
