#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Guards libpostcopy's promise to a VMM: it exports the functions of its header
# and nothing else, it needs protobuf-c and libc only, and its header stands alone.
# Usage: libpostcopy_symbols.sh LIBRARY HEADER MAP CC
set -eu
library=$1 header=$2 map=$3 cc=$4
fail()
{
	echo "FAIL: $*" >&2
	exit 1
}

exported=$(nm -D --defined-only "$library" | awk '$2 != "A" {sub(/@.*/, "", $3); print $3}' | sort)
declared=$(grep -ozE 'POSTCOPY_PUBLIC [^;(]*\(' "$header" | tr '\0' '\n' | grep -oE 'postcopy_[a-z_]+\($' | tr -d '(' | sort)
mapped=$(grep -oE 'postcopy_[a-z_]+;' "$map" | tr -d ';' | sort)
[ -n "$exported" ] || fail "no symbols at all"
[ "$exported" = "$declared" ] || fail "exported: $exported; declared in the header: $declared"
[ "$exported" = "$mapped" ] || fail "exported: $exported; in the map: $mapped"
nm -D --defined-only "$library" | awk '$2 != "A"' | grep -v '@@POSTCOPY_0$' && fail "a symbol has no version"

readelf -d "$library" | grep -q 'SONAME.*\[libpostcopy\.so\.0\]' || fail "SONAME is not libpostcopy.so.0"
if [ -z "${SANITIZE:-}" ]; then # sanitizers bring libraries of their own
	readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r needed; do
		case $needed in
		libc.so.6 | libprotobuf-c.so.1) ;;
		*) fail "it needs $needed" ;;
		esac
	done
fi

for std in c89 c99 c17; do
	"$cc" -std=$std -pedantic -Wall -Wextra -Werror -Wstrict-prototypes -fsyntax-only -x c "$header" ||
		fail "the header is not clean as $std"
done
if command -v g++ >/dev/null; then
	g++ -std=c++11 -pedantic -Wall -Wextra -Werror -fsyntax-only -x c++ "$header" || fail "the header is not clean as C++"
fi
echo "ok"
