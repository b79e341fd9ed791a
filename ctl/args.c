/* SPDX-License-Identifier: Apache-2.0 */
/* Values on the command line. Called by the commands; prints nothing. */
#include "ctl/args.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/cleanup.h"
#include "core/hex.h"

int args_uuid(const char *text, struct uuid *ret, struct error *err)
{
	if (uuid_parse(text, ret) < 0)
		return error_set(
		        err, -EINVAL,
		        "\"%s\" is not a migration ID (a UUID; postcopyctl new-id makes one)",
		        text);
	return 0;
}

int args_number(const char *text, uint64_t *ret, struct error *err)
{
	unsigned long long value;
	char *end;

	if (strncasecmp(text, "0x", 2) != 0)
		return units_parse_bytes(text, ret, err);
	errno = 0;
	value = strtoull(text, &end, 16);
	if (!isxdigit((unsigned char)text[2]) || *end != '\0' || errno != 0)
		return error_set(err, -EINVAL, "\"%s\" is not a hexadecimal number of 64 bits",
		                 text);
	*ret = value;
	return 0;
}

int args_address(const char *text, char buf[CONTROL_ADDRESS_MAX], struct error *err)
{
	const char *colon = strrchr(text, ':');
	unsigned long port;
	char *end;

	if (!colon || colon == text || strlen(text) >= CONTROL_ADDRESS_MAX ||
	    (text[0] == '[' && colon[-1] != ']') ||
	    (text[0] != '[' && memchr(text, ':', (size_t)(colon - text))))
		return error_set(err, -EINVAL, "\"%s\" is not HOST:PORT ([ADDRESS]:PORT for IPv6)",
		                 text);
	port = strtoul(colon + 1, &end, 10);
	if (!isdigit((unsigned char)colon[1]) || *end != '\0' || port == 0 || port > 65535)
		return error_set(err, -EINVAL, "\"%s\": the port is not a number from 1 to 65535",
		                 text);
	strcpy(buf, text);
	return 0;
}

int args_identity(const char *text, char buf[PEER_IDENTITY_MAX], struct error *err)
{
	size_t len = strlen(text);

	if (len == 0 || len >= PEER_IDENTITY_MAX)
		return error_set(err, -EINVAL, "the peer identity has %zu bytes instead of 1 to %d",
		                 len, PEER_IDENTITY_MAX - 1);
	strcpy(buf, text);
	return 0;
}

static int range_check(const char *text, uint64_t start, uint64_t length, uint64_t unit,
                       struct error *err)
{
	if (length == 0)
		return error_set(err, -EINVAL, "%s: the length is 0", text);
	if (!is_aligned(start | length, unit))
		return error_set(err, -EINVAL,
		                 "%s: %#" PRIx64 " + %#" PRIx64
		                 " is not a multiple of the page size %" PRIu64,
		                 text, start, length, unit);
	if (start > UINT64_MAX - length)
		return error_set(err, -EINVAL, "%s: %#" PRIx64 " + %#" PRIx64 " wraps around", text,
		                 start, length);
	return 0;
}

int args_poison_range(const char *text, struct poison_range *ret, struct error *err)
{
	_cleanup_free_ char *copy = strdup(text);
	uint64_t gpa, length = WIRE_PAGE_SIZE;
	char *plus;
	int r;

	if (!copy)
		return error_set_errno(err, -ENOMEM, "%s", text);
	plus = strchr(copy, '+');
	if (plus)
		*plus++ = '\0';
	r = args_number(copy, &gpa, err);
	if (r == 0 && plus)
		r = args_number(plus, &length, err);
	if (r == 0)
		r = range_check(text, gpa, length, WIRE_PAGE_SIZE, err);
	if (r < 0)
		return r;
	ret->gpa.addr = gpa;
	ret->length_bytes = length;
	return 0;
}

/* The numbers after NAME=, between colons; how many there were, or -EINVAL. */
static int numbers_parse(char *text, uint64_t *numbers, int max, struct error *err)
{
	char *save = NULL;
	int n = 0;

	for (char *word = strtok_r(text, ":", &save); word; word = strtok_r(NULL, ":", &save)) {
		int r = n < max ? args_number(word, &numbers[n], err) : -EINVAL;

		if (r < 0)
			return r;
		n++;
	}
	return n;
}

/* NAME=GPA:where:LENGTH[:PAGESIZE]: the name and four numbers. */
static int range_parse(const char *text, const char *where, char name[REGION_NAME_MAX],
                       uint64_t numbers[4], struct error *err)
{
	_cleanup_free_ char *copy = strdup(text);
	char *equals = copy ? strchr(copy, '=') : NULL;
	int r;

	if (!copy)
		return error_set_errno(err, -ENOMEM, "%s", text);
	if (!equals || equals == copy || (size_t)(equals - copy) >= REGION_NAME_MAX)
		return error_set(err, -EINVAL,
		                 "\"%s\" is not NAME=GPA:%s:LENGTH[:PAGESIZE] with a name of 1 "
		                 "to %d bytes",
		                 text, where, REGION_NAME_MAX - 1);
	*equals = '\0';
	numbers[3] = WIRE_PAGE_SIZE;
	r = numbers_parse(equals + 1, numbers, 4, err);
	if (r < 3)
		return error_set(err, -EINVAL,
		                 "\"%s\" is not NAME=GPA:%s:LENGTH[:PAGESIZE] with numbers like "
		                 "0x1000 or 4K",
		                 text, where);
	if (!is_power_of_two(numbers[3]) || numbers[3] < WIRE_PAGE_SIZE)
		return error_set(err, -EINVAL,
		                 "%s: page size %" PRIu64 " is not a power of two from 4096 up",
		                 text, numbers[3]);
	r = range_check(text, numbers[0], numbers[2], numbers[3], err);
	if (r == 0)
		r = range_check(text, numbers[1], numbers[2], numbers[3], err);
	if (r == 0)
		strcpy(name, copy);
	return r;
}

int args_process_range(const char *text, struct process_range *ret, struct error *err)
{
	uint64_t numbers[4];
	int r = range_parse(text, "ADDRESS", ret->name, numbers, err);

	if (r < 0)
		return r;
	ret->gpa.addr = numbers[0];
	ret->hva.addr = numbers[1];
	ret->length_bytes = numbers[2];
	ret->page_size_bytes = numbers[3];
	return 0;
}

int args_file_range(const char *text, struct file_range *ret, struct error *err)
{
	uint64_t numbers[4];
	int r = range_parse(text, "OFFSET", ret->name, numbers, err);

	if (r < 0)
		return r;
	ret->gpa.addr = numbers[0];
	ret->offset.off = numbers[1];
	ret->length_bytes = numbers[2];
	ret->page_size_bytes = numbers[3];
	return 0;
}

/* 1: there was nothing in it. */
static int poison_line(char *line, struct poison_range *ret, struct error *err)
{
	char *save = NULL, *word;
	int r;

	line[strcspn(line, "#")] = '\0';
	word = strtok_r(line, " \t\r\n", &save);
	if (!word)
		return 1;
	r = args_poison_range(word, ret, err);
	if (r == 0 && strtok_r(NULL, " \t\r\n", &save))
		r = error_set(err, -EINVAL, "there is more than one range in it");
	return r;
}

static int poison_lines(FILE *file, struct poison_range **ranges, size_t *n, struct error *err)
{
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	for (unsigned number = 1; getline(&line, &size, file) >= 0; number++) {
		struct poison_range range, *grown;
		int r = poison_line(line, &range, err);

		if (r < 0)
			return error_prefix(err, "line %u", number);
		if (r > 0)
			continue;
		if (*n == POISON_RANGES_MAX)
			return error_set(err, -EINVAL, "line %u: more than %d ranges", number,
			                 POISON_RANGES_MAX);
		grown = reallocarray(*ranges, *n + 1, sizeof(*grown));
		if (!grown)
			return error_set_errno(err, -ENOMEM, "line %u", number);
		*ranges = grown;
		grown[(*n)++] = range;
	}
	return ferror(file) ? error_set(err, -EIO, "cannot be read") : 0;
}

int args_poison_file(const char *path, struct poison_range **ret, size_t *ret_n, struct error *err)
{
	FILE *file = fopen(path, "re");
	struct poison_range *ranges = NULL;
	size_t n = 0;
	int r;

	if (!file)
		return error_set_errno(err, -errno, "%s", path);
	r = poison_lines(file, &ranges, &n, err);
	(void)fclose(file);
	if (r < 0) {
		free(ranges);
		error_prefix(err, "%s", path);
		return r;
	}
	*ret = ranges;
	*ret_n = n;
	return 0;
}

static int token_decode(const char *path, const char *text, size_t len,
                        uint8_t token[TOKEN_BYTES_MAX], size_t *ret_len, struct error *err)
{
	size_t n_digits;

	while (len > 0 && isspace((unsigned char)text[len - 1]))
		len--;
	if (len % 2 != 0 || len / 2 < TOKEN_BYTES_MIN || len / 2 > TOKEN_BYTES_MAX)
		return error_set(
		        err, -EINVAL,
		        "%s has %zu digits instead of %d to %d, two a byte (postcopyctl token "
		        "makes one)",
		        path, len, 2 * TOKEN_BYTES_MIN, 2 * TOKEN_BYTES_MAX);
	n_digits = hex_read(text, len / 2, token);
	if (n_digits < len)
		return error_set(err, -EINVAL, "%s: byte %zu is not a hexadecimal digit", path,
		                 n_digits);
	*ret_len = len / 2;
	return 0;
}

int args_token_file(const char *path, uint8_t token[TOKEN_BYTES_MAX], size_t *ret_len,
                    bool *ret_exposed, struct error *err)
{
	bool is_stdin = strcmp(path, "-") == 0;
	_cleanup_close_ int fd = is_stdin ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
	char text[2 * TOKEN_BYTES_MAX + 16];
	size_t len = 0;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "cannot open the token file %s", path);
	while (len < sizeof(text) && (n = read(fd, text + len, sizeof(text) - len)) != 0) {
		if (n < 0)
			return error_set_errno(err, -errno, "cannot read %s", path);
		len += (size_t)n;
	}
	*ret_exposed = S_ISREG(st.st_mode) && (st.st_mode & (S_IRGRP | S_IROTH));
	return token_decode(path, text, len, token, ret_len, err);
}
