/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strings from peers, VMMs and clients. Called by the codecs of this folder.
 *
 * What passes here can be logged, shown on a terminal and put into JSON as it
 * is: valid UTF-8, no control characters (also not the C1 ones, which some
 * terminals obey), no NUL that hides the rest.
 */
#include "wire/text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "wire/arena.h"

#define QUOTE_BYTES 40

/* Bytes of the character at s, 0 when it is no valid UTF-8 or a control character. */
static size_t text_char_len(const uint8_t *s, size_t len)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint32_t c = s[0];
	size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 0;

	if (n == 0 || n > len || c >= 0xf8)
		return 0;
	if (n == 1)
		return c < 0x20 || c == 0x7f ? 0 : 1;
	c &= 0x7fu >> n;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || c < 0xa0)
		return 0;
	return n;
}

static bool text_is_name_char(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("._:/-", c));
}

/* The beginning of a string of any content, fit to be shown in an error text. */
static const char *text_quote(const char *s, size_t len, char buf[static QUOTE_BYTES * 4 + 6])
{
	size_t at = 0;

	buf[at++] = '"';
	for (size_t i = 0; i < len && i < QUOTE_BYTES; i++) {
		uint8_t c = (uint8_t)s[i];

		if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\')
			buf[at++] = (char)c;
		else
			at += (size_t)sprintf(buf + at, "\\x%02x", c);
	}
	strcpy(buf + at, len > QUOTE_BYTES ? "\"..." : "\"");
	return buf;
}

static const char *text_rule_broken(const uint8_t *s, size_t len, enum text_rule rule)
{
	if (rule == TEXT_NAME && len == 0)
		return "is empty";
	for (size_t i = 0; i < len;) {
		size_t n = text_char_len(s + i, len - i);

		if (rule == TEXT_NAME && !text_is_name_char(s[i]))
			return "has a character outside [A-Za-z0-9._:/-]";
		if (rule == TEXT_GRAPHIC && (s[i] <= 0x20 || s[i] >= 0x7f))
			return "has a space, control or non-ASCII character";
		if (n == 0)
			return "has a control character or is not UTF-8";
		i += n;
	}
	return NULL;
}

int text_check(const char *s, size_t len, size_t cap, enum text_rule rule, const char *field,
               struct error *err)
{
	char quoted[QUOTE_BYTES * 4 + 6];
	const char *broken;

	if (len >= cap)
		return error_set(err, -EBADMSG, "%s %s has %zu bytes, expected at most %zu", field,
		                 text_quote(s, len, quoted), len, cap - 1);
	broken = text_rule_broken((const uint8_t *)s, len, rule);
	if (broken)
		return error_set(err, -EBADMSG, "%s %s %s", field, text_quote(s, len, quoted),
		                 broken);
	return 0;
}

int text_get(const char *s, size_t cap, enum text_rule rule, const char *field, char *ret,
             struct error *err)
{
	size_t len = wire_arena_string_len(s);
	int r = text_check(s, len, cap, rule, field, err);

	if (r < 0)
		return r;
	memcpy(ret, s, len);
	ret[len] = '\0';
	return 0;
}

void text_clean(const char *s, size_t cap, char *ret)
{
	size_t len = strnlen(s, cap - 1);

	for (size_t i = 0; i < len;) {
		size_t n = text_char_len((const uint8_t *)s + i, len - i);

		if (n == 0) {
			ret[i++] = '?';
			continue;
		}
		memcpy(ret + i, s + i, n);
		i += n;
	}
	ret[len] = '\0';
}

int text_own_check(const char *s, size_t cap, enum text_rule rule)
{
	size_t len = strnlen(s, cap);

	if (len >= cap || text_rule_broken((const uint8_t *)s, len, rule))
		return -EINVAL;
	return (int)len;
}
