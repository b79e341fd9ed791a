/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The syntax of HOST:PORT. Called by the control server (Start, Recover) and
 * the settings; never blocks.
 */
#include "daemon/source_address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HOST_MAX 254

static int address_error(struct error *err, const char *text, const char *what)
{
	return error_set(err, -EINVAL,
	                 "\"%.128s\" is not an address: %s; expected HOST:PORT or [V6]:PORT", text,
	                 what);
}

static bool port_valid(const char *text)
{
	unsigned long port = 0;

	if (!*text || strlen(text) > 5)
		return false;
	for (; *text; text++) {
		if (!isdigit((unsigned char)*text))
			return false;
		port = port * 10 + (unsigned long)(*text - '0');
	}
	return port >= 1 && port <= 65535;
}

static bool name_valid(const char *host)
{
	if (!*host || *host == '-' || *host == '.')
		return false;
	for (; *host; host++)
		if (!isalnum((unsigned char)*host) && !strchr("-._", *host))
			return false;
	return true;
}

/* Split and check; host gets the name without brackets. */
static int address_split(const char *text, char host[HOST_MAX], bool *ret_v6, struct error *err)
{
	const char *colon = strrchr(text, ':');
	bool bracket = text[0] == '[';
	struct in6_addr v6;

	if (!colon)
		return address_error(err, text, "there is no port");
	size_t len = (size_t)(colon - text);

	if (bracket && (len < 2 || text[len - 1] != ']'))
		return address_error(err, text, "a bracket is not closed before the port");
	if (!port_valid(colon + 1))
		return address_error(err, text, "the port must be a number from 1 to 65535");
	if (bracket) {
		text++;
		len -= 2;
	}
	if (len >= HOST_MAX)
		return address_error(err, text, "the host's name is too long");
	memcpy(host, text, len);
	host[len] = '\0';
	/* A scope (fe80::1%eth0) is left to the resolver. */
	if (bracket && !strchr(host, '%') && inet_pton(AF_INET6, host, &v6) != 1)
		return address_error(err, text, "between the brackets is no IPv6 address");
	if (!bracket && !name_valid(host))
		return address_error(err, text,
		                     strchr(host, ':') ? "an IPv6 address needs brackets"
		                                       : "the host is empty or has odd characters");
	*ret_v6 = bracket;
	return 0;
}

int source_address_check(const char *text, struct error *err)
{
	char host[HOST_MAX];
	bool v6;

	return address_split(text, host, &v6, err);
}

int loopback_address_check(const char *text, struct error *err)
{
	char host[HOST_MAX];
	struct in6_addr a6;
	struct in_addr a4;
	bool v6;
	int r = address_split(text, host, &v6, err);

	if (r < 0)
		return r;
	if (v6 && inet_pton(AF_INET6, host, &a6) == 1 && IN6_IS_ADDR_LOOPBACK(&a6))
		return 0;
	if (!v6 && inet_pton(AF_INET, host, &a4) == 1 && (ntohl(a4.s_addr) >> 24) == 127)
		return 0;
	if (!v6 && strcmp(host, "localhost") == 0)
		return 0;
	return error_set(err, -EINVAL,
	                 "expected a loopback address such as 127.0.0.1:9090, not \"%.128s\": the "
	                 "status interface has no access control of its own",
	                 text);
}
