#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The packages and the services under a real systemd: makes the packages (and those of a
# higher version), boots a fresh Debian in systemd-nspawn, installs them there, and runs
# migrations through kills, restarts and reloads. `./check.sh systemd` calls it and counts
# its lines, which are
#   passed NAME SECONDS | FAILED NAME | skipped NAME: reason
# Exit status: 0 if nothing failed, 77 if nothing could run (the last line says why).
# Options: --kills N (default 100): how often the daemon is killed; then tests of
# faults_test.py by name (default: all).
set -u
cd "$(dirname "$0")/../.." || exit 1
. scripts/common.sh
. tests/systemd/machine.sh

HIGHER=99.0.0
LIMIT=3600
logs=build/check/systemd
failed=0

skip_all() {
	echo "$*"
	exit 77
}

# packages_make [--version X]: the folder they are in
packages_make() {
	scripts/packages.sh "$@" 2>"$logs/packages.log" | tail -n 1
	return "${PIPESTATUS[0]}"
}

packages_both() {
	local start=$SECONDS
	if ! higher=$(packages_make --version $HIGHER --no-lintian) || ! packages=$(packages_make); then
		echo "FAILED packages"
		tail -n 60 "$logs/packages.log" >&2
		exit 1
	fi
	echo "passed packages $((SECONDS - start))"
	sed 's/^/    lintian: /' "$packages/lintian.log"
}

# in_tree PATH: as the machine sees it
in_tree() {
	echo "/srv/postcopy/${1#"$PWD"/}"
}

# faults TEST...: faults_test.py's lines as ours
faults() {
	machine_run dpkg -i $(cd "$packages" && printf "$(in_tree "$packages")/%s " *.deb) \
		>"$logs/install.log" 2>&1 || { cat "$logs/install.log" >&2; return 1; }
	machine_run env "POSTCOPY_KILLS=$kills" python3 -B /srv/postcopy/tests/systemd/faults_test.py \
		"$@" </dev/null 2>&1 | tee "$logs/faults.log" | sed -u -n -E \
		-e 's/^ok test_(\w+) \(([0-9.]+) s\)/passed \1 \2/p' -e 's/^FAILED test_/FAILED /p' \
		-e 's/^SKIP: test_(\w+): /skipped \1: /p' -e '/^    \| /p'
	return "${PIPESTATUS[0]}"
}

# part NAME COMMAND...: 77: it has said what it skipped
part() {
	local name=$1 status
	shift
	"$@"
	status=$?
	[ $status != 0 ] && [ $status != 77 ] || return 0
	failed=1
	machine_run journalctl --boot --no-pager >"$logs/$name.journal" 2>&1
	[ ! -e "$logs/$name.log" ] || tail -n 200 "$logs/$name.log" >&2
	echo "$name: see $logs/$name.journal" >&2
}

kills=100
if [ "${1-}" = --kills ]; then
	kills=${2:?how often}
	shift 2
fi
why=$(machine_usable) || skip_all "$why. As root:  apt-get install --no-install-recommends $PACKAGES_SYSTEMD"
[ -x build/release/tests/support/testguest ] || skip_all "no build/release: run ./check.sh build first"
mkdir -p $logs
root=$(tests/systemd/root.sh 2>"$logs/root.log" | tail -n 1) || skip_all "$root"
[ -e "$root" ] || skip_all "$root"
packages="" higher=""
packages_both
trap machine_stop EXIT
trap 'exit 1' INT TERM HUP
if ! why=$(machine_start "$root" $LIMIT; echo) ; then skip_all "$why"; fi
