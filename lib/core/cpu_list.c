/* SPDX-License-Identifier: Apache-2.0 */
/* Called by the configuration of both daemons. No state. */
#include "core/cpu_list.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

static const char *parse_number(const char *text, unsigned long *ret)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return NULL;
	*ret = strtoul(text, &end, 10);
	return end;
}

/* One "N" or "N-M" into the set: where it ended, NULL if malformed. */
static const char *parse_range(const char *text, cpu_set_t *set)
{
	unsigned long first, last;

	text = parse_number(text, &first);
	last = text ? first : 0;
	if (text && *text == '-')
		text = parse_number(text + 1, &last);
	if (!text || first > last || last >= CPU_SETSIZE)
		return NULL;
	for (unsigned long cpu = first; cpu <= last; cpu++)
		CPU_SET(cpu, set);
	return text;
}

int cpu_list_parse(const char *text, struct cpu_list *ret, struct error *err)
{
	struct cpu_list list = {.given = *text != '\0'};
	const char *at = text;

	while (list.given) {
		at = parse_range(at, &list.cpus);
		if (!at || (*at != ',' && *at != '\0'))
			return error_set(err, -EINVAL,
			                 "expected CPUs like 0,2-3, below %d, not \"%.64s\"",
			                 CPU_SETSIZE, text);
		if (*at++ == '\0')
			break;
	}
	*ret = list;
	return 0;
}
