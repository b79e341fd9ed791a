/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Firecracker's message to regions. Called by attach_firecracker.c each time when more of
 * it has come.
 *
 * Three generations: base_host_virt_addr, size and offset; since v1.7 page_size_kib as
 * well, whose value is in bytes; since v1.12 also page_size, in bytes. Other keys are for
 * versions to come.
 */
#include "daemon/firecracker_message.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"
#include "core/units.h"
#include "daemon/region.h"

/* *ret is left alone where there is no such key. */
static int number_get(const json_t *o, size_t i, const char *key, uint64_t *ret, struct error *err)
{
	const json_t *v = json_object_get(o, key);

	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return error_set(err, -EBADMSG, "region %zu: %s is not a number that is 0 or more",
		                 i, key);
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int required_get(const json_t *o, size_t i, const char *key, uint64_t *ret,
                        struct error *err)
{
	if (!json_object_get(o, key))
		return error_set(err, -EBADMSG, "region %zu has no %s", i, key);
	return number_get(o, i, key, ret, err);
}

static int page_size_get(const json_t *o, size_t i, uint64_t *ret, struct error *err)
{
	uint64_t bytes = 0, kib = 0;
	int r = number_get(o, i, "page_size", &bytes, err);

	if (r == 0)
		r = number_get(o, i, "page_size_kib", &kib, err);
	if (r < 0)
		return r;
	/* In bytes in spite of its name; should a version ever mean KiB, there is no mistaking it. */
	if (kib > 0 && kib < WIRE_PAGE_SIZE)
		kib *= 1024;
	if (bytes && kib && bytes != kib)
		return error_set(err, -EBADMSG,
		                 "region %zu: page_size is %" PRIu64
		                 ", but page_size_kib says %" PRIu64 " bytes",
		                 i, bytes, kib);
	*ret = bytes ? bytes : kib ? kib : WIRE_PAGE_SIZE;
	return 0;
}

static int region_get(const json_t *o, size_t i, struct attach_region *ret, struct error *err)
{
	uint64_t address = 0, offset = 0, size = 0;
	int r;

	if (!json_is_object(o))
		return error_set(err, -EBADMSG, "region %zu is not an object", i);
	r = required_get(o, i, "base_host_virt_addr", &address, err);
	if (r == 0)
		r = required_get(o, i, "size", &size, err);
	if (r == 0)
		r = required_get(o, i, "offset", &offset, err);
	if (r == 0)
		r = page_size_get(o, i, &ret->page_size_bytes, err);
	if (r < 0)
		return r;
	ret->hva.addr = address;
	ret->length_bytes = size;
	ret->gpa.addr = offset;
	ret->backing = ret->page_size_bytes > WIRE_PAGE_SIZE ? BACKING_HUGETLB : BACKING_ANONYMOUS;
	ret->mode = UFFD_MODE_MISSING;
	ret->registered = true;
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct attach_region *ra = a, *rb = b;

	return (ra->gpa.addr > rb->gpa.addr) - (ra->gpa.addr < rb->gpa.addr);
}

static int regions_get(const json_t *array, struct attach_region **ret, size_t *ret_n,
                       struct error *err)
{
	_cleanup_free_ struct attach_region *regions = NULL;
	size_t n = json_array_size(array);

	if (!json_is_array(array) || n == 0 || n > REGION_TABLE_MAX)
		return error_set(err, -EBADMSG, "it is not an array of 1 to %d regions",
		                 REGION_TABLE_MAX);
	regions = calloc(n, sizeof(*regions));
	if (!regions)
		return error_set(err, -ENOMEM, "not enough memory for %zu regions", n);
	for (size_t i = 0; i < n; i++) {
		int r = region_get(json_array_get(array, i), i, &regions[i], err);

		if (r < 0)
			return r;
	}
	qsort(regions, n, sizeof(*regions), by_offset);
	for (size_t i = 0; i < n; i++)
		(void)snprintf(regions[i].name, sizeof(regions[i].name), "mem%zu", i);
	*ret = TAKE_PTR(regions);
	*ret_n = n;
	return 0;
}

/* Brackets outside of strings; what begins otherwise is for the parser to refuse. */
static bool is_whole(const char *text, size_t len)
{
	size_t depth = 0, i = 0;
	bool in_string = false;

	while (i < len && strchr(" \t\r\n", text[i]) && text[i])
		i++;
	if (i < len && text[i] != '[')
		return true;
	for (; i < len; i++) {
		char c = text[i];

		if (in_string && c == '\\')
			i++;
		else if (c == '"')
			in_string = !in_string;
		else if (!in_string && (c == '[' || c == '{'))
			depth++;
		else if (!in_string && (c == ']' || c == '}') && --depth == 0)
			return true;
	}
	return false;
}

int firecracker_message_decode(const char *text, size_t len, struct attach_region **ret,
                               size_t *ret_n, struct error *err)
{
	json_error_t why;
	json_t *array;
	int r;

	if (!is_whole(text, len))
		return -EAGAIN;
	array = json_loadb(text, len, 0, &why);
	if (!array)
		return error_set(err, -EBADMSG, "it is not JSON, at byte %d: %.200s", why.position,
		                 why.text);
	r = regions_get(array, ret, ret_n, err);
	json_decref(array);
	return r;
}
