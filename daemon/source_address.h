/* SPDX-License-Identifier: Apache-2.0 */
/* The syntax of HOST:PORT, checked without asking DNS (that would block). */
#ifndef DAEMON_SOURCE_ADDRESS_H
#define DAEMON_SOURCE_ADDRESS_H

#include "core/error.h"

/*
 * 0 for "NAME:PORT", "V4:PORT", "[V6]:PORT" with a port from 1 to 65535;
 * -EINVAL with a text otherwise.
 */
int source_address_check(const char *text, struct error *err);

/* The same, and the host must be 127.x.x.x, ::1 or localhost. */
int loopback_address_check(const char *text, struct error *err);

#endif
