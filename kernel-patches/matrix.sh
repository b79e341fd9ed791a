#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Shows that each part of the series is needed: builds the patched kernel without
# one part after the other (6.1/without/*.patch), runs the series' selftest on each,
# and prints a table of what fails.  A part whose absence no test notices makes it
# fail.  Takes about three minutes for a part; words select parts by name.  The
# kernels are deleted again; the logs stay in $MATRIX_LOGS if that is set.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
logs=${MATRIX_LOGS:-$(mktemp -d)}
mkdir -p "$logs"
undetected=0 folder=""

cleanup() {
	[ -z "$folder" ] || rm -rf "$folder"
	[ -n "${MATRIX_LOGS:-}" ] || rm -rf "$logs"
}

# failing LOG: the tests that failed, each with the number of kinds of memory
failing() {
	sed -n 's/^not ok [0-9]* \([a-z_]*\) [a-z_]*$/\1/p' "$1" | awk '
		!kinds[$1]++ { names[++n] = $1 }
		END {
			if (n > 12)
				printf "%d tests, %d of the %d names; ", NR, n, '"$tests"'
			else
				for (i = 1; i <= n; i++)
					printf "%s (%d); ", names[i], kinds[names[i]]
		}'
}

# complaints CONSOLE: where the kernel itself noticed it first
complaints() {
	local first
	first=$(grep -m 1 -o -E '(WARNING: |BUG: |kernel BUG at |Oops: )[^[:cntrl:]]*' "$1") ||
		return 0
	echo "the kernel's log (${first##* at }); "
}

trap cleanup EXIT
tests=$(grep -c '^+	{ "[a-z_]*", test_' "$here"/6.1/*-selftests-*.patch)
echo "| without | what | fails |"
echo "| --- | --- | --- |"
for patch in "$here"/6.1/without/*.patch; do
	name=$(basename "$patch" .patch)
	[ $# = 0 ] || [[ " $* " == *" $name "* ]] || continue
	folder=$("$here/build.sh" --extra "$patch" patched 2>"$logs/$name.build" | tail -n 1) ||
		{ cat "$logs/$name.build" >&2; exit 2; }
	"$here/boot.sh" --kernel "$folder" --console "$logs/$name.console" --timeout 1200 \
		"$here/selftest.sh" "$folder" poison >"$logs/$name.log" 2>&1 || true
	# No plan: that is a machine that did not work, and shows nothing.
	grep -q '^1\.\.[0-9]' "$logs/$name.log" ||
		{ echo "matrix.sh: $name: the test did not run:" >&2; cat "$logs/$name.log" >&2; exit 2; }
	fails=$(failing "$logs/$name.log"; complaints "$logs/$name.console")
	grep -q '^# Totals:' "$logs/$name.log" || fails+="the machine did not live to the end; "
	[ -n "$fails" ] || { fails="**nothing**"; undetected=1; }
	echo "| $name | $(head -n 1 "$patch") | $(tr '\n' ' ' <<<"$fails" | sed 's/[; ]*$//') |"
	rm -rf "$folder"
done
folder=""
exit $undetected
