/* SPDX-License-Identifier: Apache-2.0 */
/* Values on the command line: numbers, ranges, regions, token files. */
#ifndef CTL_ARGS_H
#define CTL_ARGS_H

#include <stdint.h>

#include "core/error.h"
#include "core/uuid.h"
#include "wire/control_message.h"

/* All: 0, or -EINVAL with a text that names the value. */

int args_uuid(const char *text, struct uuid *ret, struct error *err);

/* "0x1f000", "4096", "4K", "2G". */
int args_number(const char *text, uint64_t *ret, struct error *err);

/* HOST:PORT, [IPV6]:PORT; copied into buf of CONTROL_ADDRESS_MAX. */
int args_address(const char *text, char buf[CONTROL_ADDRESS_MAX], struct error *err);

int args_identity(const char *text, char buf[PEER_IDENTITY_MAX], struct error *err);

/* GPA[+LENGTH], multiples of 4096; LENGTH 4096 when absent. */
int args_poison_range(const char *text, struct poison_range *ret, struct error *err);

/* NAME=GPA:ADDRESS:LENGTH[:PAGESIZE]. */
int args_process_range(const char *text, struct process_range *ret, struct error *err);

/* NAME=GPA:OFFSET:LENGTH[:PAGESIZE]. */
int args_file_range(const char *text, struct file_range *ret, struct error *err);

/*
 * Poison ranges, one a line; empty lines and what follows # do not count. *ret is
 * malloc()ed. -errno of reading it; -EINVAL with the line's number.
 */
int args_poison_file(const char *path, struct poison_range **ret, size_t *ret_n, struct error *err);

/*
 * The secret: 16 to 64 bytes as hexadecimal text, with white space after it,
 * in a file ("-": stdin). *ret_exposed: others may read the file. Also -errno
 * of open() and read().
 */
int args_token_file(const char *path, uint8_t token[TOKEN_BYTES_MAX], size_t *ret_len,
                    bool *ret_exposed, struct error *err);

#endif
