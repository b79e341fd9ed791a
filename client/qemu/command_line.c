/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's command line: which memory backends it makes, in which order, and what
 * in it would spoil a migration. Called by the library's constructor.
 *
 * Values come as keyval text ("memory-backend-memfd,id=ram,size=1G", where ",," is
 * a comma) or as JSON; both are looked at as a JSON object.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"

struct command_line command_line;

bool command_line_is_file(const char *id)
{
	for (size_t i = 0; i < command_line.n_backends; i++)
		if (strcmp(command_line.backends[i].id, id) == 0)
			return command_line.backends[i].is_file;
	return false;
}

/* The next item of keyval text, its ",," as commas; *text is behind it. malloc()ed. */
static char *keyval_item(const char **text)
{
	char *item = malloc(strlen(*text) + 1), *to = item;
	const char *from = *text;

	if (!item)
		return NULL;
	for (; *from && (*from != ',' || from[1] == ','); from++) {
		if (*from == ',')
			from++;
		*to++ = *from;
	}
	*to = '\0';
	*text = *from == ',' ? from + 1 : from;
	return item;
}

/* first_key is what a first item without "=" is the value of; others are "on". */
static json_t *keyval_parse(const char *text, const char *first_key)
{
	json_t *o = json_object();
	bool first = true;

	while (o && *text) {
		_cleanup_free_ char *item = keyval_item(&text);
		char *equals = item ? strchr(item, '=') : NULL;

		if (!item)
			break;
		if (equals)
			*equals = '\0';
		if (!equals && first)
			json_object_set_new(o, first_key, json_string(item));
		else
			json_object_set_new(o, item, json_string(equals ? equals + 1 : "on"));
		first = false;
	}
	return o;
}

static json_t *value_parse(const char *text, const char *first_key)
{
	json_t *o = *text == '{' ? json_loads(text, 0, NULL) : NULL;

	return o ? o : keyval_parse(text, first_key);
}

/* "" where it is not given. */
static const char *text_of(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

static bool bool_of(const json_t *o, const char *key, bool otherwise)
{
	static const char *const yes[] = {"on", "yes", "true", "y"};
	const json_t *value = json_object_get(o, key);

	if (!value)
		return otherwise;
	for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
		if (json_is_string(value) && strcasecmp(json_string_value(value), yes[i]) == 0)
			return true;
	return json_is_true(value);
}

static bool begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* Where a backend's pages would be made, or shared with nobody, before we see them. */
static void backend_judge(const char *type, const char *id, const json_t *o)
{
	bool is_file = strcmp(type, "memory-backend-file") == 0;

	if (!is_file && strcmp(type, "memory-backend-memfd") != 0)
		refuse("-object %s,id=%s: a %s has no file that can be handed over; use "
		       "memory-backend-memfd, or memory-backend-file on tmpfs, with share=on",
		       type, id, type);
	/* QEMU shares a memfd and does not share a file when nothing is said. */
	else if (!bool_of(o, "share", !is_file))
		refuse("-object %s,id=%s: this memory is private to QEMU; say share=on", type, id);
	else if (bool_of(o, "readonly", false))
		refuse("-object %s,id=%s: readonly=on is not memory of a guest that moves", type,
		       id);
	if (command_line.incoming && bool_of(o, "prealloc", false))
		refuse("-object %s,id=%s: prealloc=on touches all memory before the source's is "
		       "here; leave it out on a destination",
		       type, id);
}

static void backend_add(struct command_line *c, const json_t *o)
{
	const char *type = text_of(o, "qom-type"), *id = text_of(o, "id");
	struct backend *b = &c->backends[c->n_backends];

	if (!begins(type, "memory-backend-"))
		return;
	backend_judge(type, id, o);
	if (strlen(id) >= sizeof(b->id)) {
		refuse("-object %s,id=%s: an id has at most %zu characters here", type, id,
		       sizeof(b->id) - 1);
		return;
	}
	if (c->n_backends == BACKENDS_MAX) {
		refuse("-object %s,id=%s: more than %d memory backends", type, id, BACKENDS_MAX);
		return;
	}
	strcpy(b->id, id);
	b->is_file = strcmp(type, "memory-backend-file") == 0;
	b->path = b->is_file ? strdup(text_of(o, "mem-path")) : NULL;
	c->n_backends++;
}

static void incoming_judge(const char *value)
{
	const char *path = getenv(SOCKET_VARIABLE);

	if (!path || !*path)
		refuse(SOCKET_VARIABLE " is not set: it names the socket at which a destination "
		                       "is told which migration its memory comes from");
	if (strcmp(value, "defer") != 0)
		refuse("-incoming %s: use -incoming defer, for memory is attached, and "
		       "capabilities "
		       "are set, before the device state comes",
		       value);
}

/* A device that has all of guest memory at once. vhost_user.c sees to those of other processes. */
static void device_judge(const char *option, const char *value)
{
	_cleanup_free_ char *driver = NULL;
	json_t *o = value_parse(value, "driver");

	driver = strdup(*text_of(o, "driver") ? text_of(o, "driver") : text_of(o, "type"));
	json_decref(o);
	if (!driver)
		return;
	if (begins(driver, "vfio-") || begins(driver, "vhost-vdpa"))
		refuse("-%s %s: the device holds all guest memory in place, so that it would have "
		       "to be here before the source stands still",
		       option, driver);
}

static void lock_judge(const char *option, const char *value)
{
	json_t *o = value_parse(value, "mem-lock");

	if (bool_of(o, "mem-lock", false) || bool_of(o, "mlock", false))
		refuse("-%s %s: locking touches all memory before the source's is here; leave it "
		       "out on a destination",
		       option, value);
	json_decref(o);
}

/* The guest's RAM is a backend's when a machine or a NUMA node names one. */
static bool names_main_memory(const char *option, const char *value)
{
	bool is_machine = strcmp(option, "machine") == 0 || strcmp(option, "M") == 0;
	json_t *o = value_parse(value, "type");
	bool named = false;

	if (is_machine)
		named = *text_of(o, "memory-backend") != '\0';
	else if (strcmp(option, "numa") == 0)
		named = *text_of(o, "memdev") != '\0';
	json_decref(o);
	return named;
}

static void option_look(struct command_line *c, const char *option, const char *value)
{
	if (strcmp(option, "object") == 0) {
		json_t *o = value_parse(value, "qom-type");

		backend_add(c, o);
		json_decref(o);
	} else if (!c->incoming) {
		return;
	} else if (strcmp(option, "incoming") == 0) {
		incoming_judge(value);
	} else if (strcmp(option, "mem-prealloc") == 0) {
		refuse("-mem-prealloc touches all memory before the source's is here: the guest "
		       "would run on zeros; leave it out on a destination");
	} else if (strcmp(option, "overcommit") == 0 || strcmp(option, "realtime") == 0) {
		lock_judge(option, value);
	} else if (strcmp(option, "device") == 0 || strcmp(option, "netdev") == 0) {
		device_judge(option, value);
	}
}

/* NULL if it is no option. Both spellings, -object and --object, are QEMU's. */
static const char *option_name(const char *arg)
{
	if (arg[0] != '-' || !arg[1])
		return NULL;
	return arg[1] == '-' ? arg + 2 : arg + 1;
}

static bool is_option(const char *arg, const char *name)
{
	const char *found = option_name(arg);

	return found && strcmp(found, name) == 0;
}

void command_line_parse(char *const *argv, size_t argc, struct command_line *ret)
{
	bool main_memory = false;

	/* First, for what is wrong is worse on a destination. */
	for (size_t i = 1; i < argc; i++)
		ret->incoming = ret->incoming || is_option(argv[i], "incoming");
	atomic_store(&ret->waits, ret->incoming);
	for (size_t i = 1; i < argc; i++) {
		const char *option = option_name(argv[i]);
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (!option)
			continue;
		option_look(ret, option, value);
		main_memory = main_memory || names_main_memory(option, value);
	}
	if (!main_memory)
		refuse("the guest's memory is no memory backend: say -machine memory-backend=ID "
		       "and "
		       "-object memory-backend-memfd,id=ID,share=on,size=SIZE (or -numa "
		       "node,memdev=ID for each node)");
}
