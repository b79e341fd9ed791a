/* SPDX-License-Identifier: Apache-2.0 */
/* token and new-id: secrets and identifiers. They talk to no daemon. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/hex.h"
#include "core/uuid.h"
#include "ctl/command.h"

#define TOKEN_BYTES 32

/* Hexadecimal text of a fresh secret, with a newline. */
static int token_make(char text[2 * TOKEN_BYTES + 2])
{
	uint8_t secret[TOKEN_BYTES];

	if (getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
		return errno ? -errno : -EIO;
	hex_write(secret, sizeof(secret), text);
	strcpy(text + 2 * TOKEN_BYTES, "\n");
	return 0;
}

static int token_write(const char *path, const char *text)
{
	/* O_EXCL: a token in use is not overwritten by a slip. */
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	size_t len = strlen(text);

	if (fd < 0)
		return -errno;
	errno = EIO;
	return write(fd, text, len) == (ssize_t)len ? 0 : -errno;
}

enum exit_code token_run(const struct invocation *inv)
{
	char text[2 * TOKEN_BYTES + 2];
	struct error err = {0};
	int r = token_make(text);

	if (r < 0) {
		error_set_errno(&err, r, "cannot get random bytes");
		return command_fail(EXIT_REFUSED, &err);
	}
	if (inv->n_operands == 0) {
		fputs(text, stdout);
		return EXIT_OK;
	}
	r = token_write(inv->operands[0], text);
	if (r == 0)
		return EXIT_OK;
	error_set_errno(&err, r, "cannot make the token file %s", inv->operands[0]);
	return command_fail(EXIT_REFUSED, &err);
}

enum exit_code new_id_run(const struct invocation *inv)
{
	char text[UUID_TEXT_LEN];
	struct error err = {0};
	struct uuid id;
	int r = uuid_random(&id);

	(void)inv;
	if (r < 0) {
		error_set_errno(&err, r, "cannot get random bytes");
		return command_fail(EXIT_REFUSED, &err);
	}
	puts(uuid_format(&id, text));
	return EXIT_OK;
}
