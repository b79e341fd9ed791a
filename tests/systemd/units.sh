#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checks the unit files as they are installed, without a running systemd: they are
# valid, and the sandbox of both services is at most 1.3 by systemd's own measure.
# Usage: units.sh SOURCE_DIR BUILD_DIR   exit 0: good, 1: complaints, 77: cannot tell
#        units.sh --self-test SOURCE_DIR BUILD_DIR   shows that faults are found
set -euo pipefail

THRESHOLD=13 # tenths

# collect SOURCE_DIR BUILD_DIR: the units in $scratch/units, naming the programs of this build
collect() {
	local service program
	mkdir -p "$scratch/units"
	cp "$1"/systemd/*.socket "$scratch/units/"
	for service in postcopyd postcopy-sourced; do
		program=$(find "$2/daemon" "$2/source" -maxdepth 1 -type f -name "$service")
		[[ -x $program ]] || { echo "SKIP: $service is not built in $2" && exit 77; }
		sed -e "s,^ExecStart=[^ ]*,ExecStart=$program," \
			-e "s,^\(Exec[A-Z][a-z]*=+\)[^ ]*/postcopy[a-z-]*/,\1$1/systemd/libexec/," \
			"$2/systemd/$service.service" >"$scratch/units/$service.service"
	done
}

# Complaints about units that are not ours (of the host) do not count.
check_valid() {
	local out
	# systemd's own path stays in the list: it has the targets that the units refer to.
	out=$(SYSTEMD_UNIT_PATH=$scratch/units: systemd-analyze verify --man=no \
		"$scratch"/units/*.service "$scratch"/units/*.socket 2>&1) ||
		{ echo "systemd-analyze verify failed:" && echo "$out" && return 1; }
	! grep -F postcopy <<<"$out"
}

check_secure() {
	local service out failed=0
	for service in postcopyd postcopy-sourced; do
		out=$(SYSTEMD_UNIT_PATH=$scratch/units: systemd-analyze security --offline=true \
			--no-pager --threshold=$THRESHOLD "$scratch/units/$service.service") || failed=1
		tail -n 1 <<<"$out"
		[[ $failed -eq 0 ]] || grep '✗' <<<"$out"
	done
	return $failed
}

# expect_fault WHAT FUNCTION FILE SED-SCRIPT: with that change the check fails
expect_fault() {
	cp "$scratch/units/$3" "$scratch/kept"
	sed -i "$4" "$scratch/units/$3"
	if cmp -s "$scratch/kept" "$scratch/units/$3" || "$2" >/dev/null; then
		echo "self-test: $1 was not found"
		return 1
	fi
	cp "$scratch/kept" "$scratch/units/$3"
}

self_test() {
	expect_fault "a service without a program" check_valid postcopyd.service \
		's,^ExecStart=[^ ]*,ExecStart=/nonexistent/postcopyd,'
	expect_fault "an unknown setting" check_valid postcopy-sourced.service \
		's,^RestartSec=,RestartSecs=,'
	expect_fault "a socket of an unknown service" check_valid postcopyd-attach.socket \
		's,^Service=.*,Service=postcopy-nobody.service,'
	expect_fault "a capability" check_secure postcopyd.service \
		's,^CapabilityBoundingSet=.*,CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_PTRACE,'
	expect_fault "a service without a filter" check_secure postcopy-sourced.service \
		'/^SystemCallFilter=/d'
	check_valid && check_secure >/dev/null && echo "self-test: as expected"
}

command -v systemd-analyze >/dev/null || { echo "SKIP: systemd-analyze is not installed" && exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
run="check"
[[ ${1:-} == --self-test ]] && run=self_test && shift
collect "$(realpath "$1")" "$(realpath "$2")"
if [[ $run == self_test ]]; then
	self_test
else
	check_valid && check_secure
fi
