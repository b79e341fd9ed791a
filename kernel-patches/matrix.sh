#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Shows that each part of the series is needed: builds the patched kernel without
# one part after the other (6.1/without/*.patch), runs the series' selftest on each,
# and prints a table of what fails.  A part whose absence no test notices makes it
# fail.  Takes about three minutes for a part; words select parts by name.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
logs=${MATRIX_LOGS:-$(mktemp -d)}
mkdir -p "$logs"
undetected=0

# failing LOG CONSOLE: the tests that failed, and the kernel's own complaints
failing() {
	sed -n 's/^not ok [0-9]* \([a-z_]*\) \([a-z_]*\)$/\1 \2/p' "$1" |
		awk '{ t[$1] = t[$1] (t[$1] ? "," : "") $2 }
			END { for (n in t) printf "%s (%s); ", n, t[n] }'
	! grep -q 'WARNING: ' "$2" ||
		echo "the kernel's log ($(grep -m 1 -o 'WARNING: .* at [^ ]*' "$2" | sed 's/.* at //'))"
}

echo "| without | what | fails |"
echo "| --- | --- | --- |"
for patch in "$here"/6.1/without/*.patch; do
	name=$(basename "$patch" .patch)
	[ $# = 0 ] || [[ " $* " == *" $name "* ]] || continue
	folder=$("$here/build.sh" --extra "$patch" patched 2>"$logs/$name.build" | tail -n 1)
	"$here/boot.sh" --kernel "$folder" --console "$logs/$name.console" --timeout 1200 \
		"$here/selftest.sh" "$folder" poison >"$logs/$name.log" 2>&1 || true
	what=$(head -n 1 "$patch")
	fails=$(failing "$logs/$name.log" "$logs/$name.console" | tr '\n' ' ')
	[ -n "${fails// /}" ] || { fails="**nothing**"; undetected=1; }
	echo "| $name | $what | $fails |"
done
exit $undetected
