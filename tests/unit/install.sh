#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# install.sh BUILD-DIRECTORY CMAKE CC: what a VMM's author does. Installs into an
# empty directory and builds a program with nothing but pkg-config and the public
# header; every program has its manual page.
set -eu
build=$1 cmake=$2 cc=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

DESTDIR="$dir" "$cmake" --install "$build" --prefix /usr >"$dir/log" || {
	cat "$dir/log"
	exit 1
}
pc=$(find "$dir" -name libpostcopy.pc)
lib=$(find "$dir" -name libpostcopy.so.0)
[ -n "$pc" ] && [ -n "$lib" ]

cat >"$dir/vmm.c" <<'TEXT'
#include <postcopy.h>
#include <stdio.h>

int main(void)
{
	puts(postcopy_strstate(POSTCOPY_STATE_COMPLETED));
	return 0;
}
TEXT
flags=$(PKG_CONFIG_PATH=${pc%/*} pkg-config --cflags --libs libpostcopy)
[ -z "$SANITIZE" ] || flags="$flags -fsanitize=$SANITIZE"
# shellcheck disable=SC2086 # a list of words
"$cc" -std=c99 -pedantic -Wall -Werror -o "$dir/vmm" "$dir/vmm.c" $flags
[ "$(LD_LIBRARY_PATH=${lib%/*} "$dir/vmm")" = completed ]

# The example, where it was installed: a VMM's author builds it so.
if [ "$(uname -m)" = x86_64 ]; then
	# shellcheck disable=SC2086 # a list of words
	"$cc" -std=c17 -pedantic -Wall -Werror -o "$dir/example_vmm" \
		"$dir/usr/share/doc/libpostcopy-dev/examples/example_vmm.c" $flags -pthread
	LD_LIBRARY_PATH=${lib%/*} "$dir/example_vmm" 2>&1 | grep -q 'usage: source ID'
fi

for page in man8/postcopyd.8 man5/postcopyd.conf.5 man8/postcopy-sourced.8 \
	man1/postcopyctl.1 man3/libpostcopy.3 man7/libpostcopy-qemu.7; do
	[ -f "$dir/usr/share/man/$page" ] || {
		echo "$page is not installed"
		exit 1
	}
done
