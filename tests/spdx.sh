#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checks that every source file, tracked or new, names its licence in its first
# lines: GPL-2.0-only under kernel-patches/, Apache-2.0 elsewhere.
# Usage: spdx.sh [ROOT]; --self-test shows that a file without the line is found.
set -euo pipefail

# Files of the tree that git would know; in an unpacked archive, all but build folders.
list_files() {
	git -C "$1" ls-files --cached --others --exclude-standard 2>/dev/null ||
		(cd "$1" && find . -name .git -prune -o -name 'build*' -prune -o -type f -print |
			sed 's,^\./,,')
}

is_source() {
	case ${1##*/} in
	*.c | *.h | *.S | *.proto | *.py | *.sh | *.cmake | CMakeLists.txt | *.map | *.in | \
		*.service | *.socket | *.target | *.conf | *.yml | *.yaml | \
		.clang-format | .clang-tidy) return 0 ;;
	esac
	[[ $(head -c 2 "$root/$1" | tr -d '\0') == '#!' ]]
}

check_tree() {
	local root=$1 file want failed=0 n=0
	while IFS= read -r file; do
		[[ -f $root/$file ]] && is_source "$file" || continue
		n=$((n + 1))
		want=Apache-2.0
		[[ $file == kernel-patches/* ]] && want=GPL-2.0-only
		if ! head -n 5 "$root/$file" | grep -qE "SPDX-License-Identifier: $want( |\$)"; then
			echo "$file: no \"SPDX-License-Identifier: $want\" in its first five lines"
			failed=1
		fi
	done < <(list_files "$root")
	if [[ $n -eq 0 ]]; then
		echo "$root: no source files here"
		return 1
	fi
	[[ $failed -eq 1 ]] || echo "spdx: $n files, all named"
	return $failed
}

self_test() {
	local scratch out
	scratch=$(mktemp -d)
	trap "rm -rf '$scratch'" EXIT
	mkdir -p "$scratch/kernel-patches"
	echo '/* SPDX-License-Identifier: Apache-2.0 */' >"$scratch/good.c"
	check_tree "$scratch" >/dev/null || { echo "self-test: a good tree failed" && return 1; }
	echo 'int x;' >"$scratch/none.c"
	echo '#!/bin/sh' >"$scratch/script"
	echo '/* SPDX-License-Identifier: Apache-2.0 */' >"$scratch/kernel-patches/wrong.c"
	out=$(check_tree "$scratch") && { echo "self-test: a bad tree passed" && return 1; }
	[[ $(sort <<<"$out" | cut -d: -f1 | tr '\n' ' ') == "kernel-patches/wrong.c none.c script " ]] ||
		{ echo "self-test: expected three files, got: $out" && return 1; }
	echo "self-test: as expected"
}

if [[ ${1:-} == --self-test ]]; then
	self_test
else
	check_tree "$(realpath "${1:-$(dirname "$0")/..}")"
fi
