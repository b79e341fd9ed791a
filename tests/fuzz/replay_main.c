/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main() of a fuzz target without libFuzzer: gives it every file of the
 * directories (or every file) named on the command line, once. An empty or
 * missing corpus is a failure, so that the test cannot pass by testing nothing.
 */
#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

#define INPUT_BYTES_MAX (2 * 1024 * 1024)

static size_t replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *buf = malloc(INPUT_BYTES_MAX);
	uint8_t *exact;
	size_t len;

	if (!file || !buf) {
		fprintf(stderr, "%s: cannot read\n", path);
		exit(1);
	}
	len = fread(buf, 1, INPUT_BYTES_MAX, file);
	/* A block of exactly the input's size, so that sanitizers see reads past its end. */
	exact = malloc(len ? len : 1);
	FUZZ_CHECK(exact != NULL);
	memcpy(exact, buf, len);
	LLVMFuzzerTestOneInput(exact, len);
	free(exact);
	free(buf);
	fclose(file);
	return 1;
}

static size_t replay_path(const char *path)
{
	char child[PATH_MAX];
	struct dirent *entry;
	struct stat st;
	size_t n = 0;
	DIR *dir;

	if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
		return replay_file(path);
	dir = opendir(path);
	if (!dir) {
		fprintf(stderr, "%s: cannot open\n", path);
		exit(1);
	}
	while ((entry = readdir(dir)) != NULL) {
		snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
		if (stat(child, &st) == 0 && S_ISREG(st.st_mode))
			n += replay_file(child);
	}
	closedir(dir);
	return n;
}

int main(int argc, char **argv)
{
	size_t n = 0;

	for (int i = 1; i < argc; i++)
		n += replay_path(argv[i]);
	printf("%zu inputs\n", n);
	return n > 0 ? 0 : 1;
}
