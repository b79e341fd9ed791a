#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The packages and the services under a real systemd: makes the packages (and those of a
# higher version), boots a fresh Debian in systemd-nspawn, installs them there, and runs
# migrations through kills, restarts and reloads; at last boots the same files as a whole
# virtual machine, with Debian's 6.12. `./check.sh systemd` calls it and counts
# its lines, which are
#   passed NAME SECONDS | FAILED NAME | skipped NAME: reason
# Exit status: 0 if nothing failed, 77 if nothing could run (the last line says why).
# Options: --kills N (default $POSTCOPY_KILLS or 100): how often the daemon is killed; then tests of
# faults_test.py and upgrade_test.py by name (default: all).
# shellcheck disable=SC2317 # part() calls functions by name
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

# install: install_test.sh, whose lines are ours
install() {
	machine_run /srv/postcopy/tests/systemd/install_test.sh "$(in_machine "$packages")" \
		"$(in_machine "$higher")" 2>"$logs/install.log"
}

# in_machine PATH: of this tree
in_machine() {
	echo "/srv/postcopy/${1#"$PWD"/}"
}

# program NAME TEST...: tests/systemd/NAME_test.py's lines as ours
program() {
	local name=$1 debs=("$packages"/*.deb)
	shift
	machine_run dpkg -i "${debs[@]/#"$PWD"//srv/postcopy}" >"$logs/$name.log" 2>&1 || return
	machine_run env "POSTCOPY_KILLS=$kills" "POSTCOPY_PACKAGES=$(in_machine "$packages")" \
		"POSTCOPY_HIGHER=$(in_machine "$higher")" \
		python3 -B "/srv/postcopy/tests/systemd/${name}_test.py" "$@" </dev/null 2>&1 |
		tee "$logs/$name.log" | lines
	return "${PIPESTATUS[0]}"
}

# lines: what a test program says, as this script's lines
lines() {
	sed -u -n -E -e 's/^ok test_(\w+) \(([0-9.]+) s\)/passed \1 \2/p' \
		-e 's/^FAILED test_/FAILED /p' -e 's/^SKIP: test_(\w+): /skipped \1: /p' -e '/^    \| /p'
}

# vm: the machine's files as they are now, packages installed, with a kernel of their own
vm() {
	local root=$machine_dir/root tool
	for tool in qemu-system-x86_64 busybox cpio; do
		command -v $tool >/dev/null || { echo "skipped vm: no $tool"; return; }
	done
	machine_halt
	rm -rf "$root/var/log/journal"
	cp -a tests lib conf "$root/srv/postcopy/"
	printf '%s\n' '#!/bin/sh' 'export POSTCOPY_BUILD=/srv/bin POSTCOPY_PATIENCE=180' \
		'exec python3 -B /srv/postcopy/tests/systemd/vm_test.py' >"$root/srv/vm"
	chmod +x "$root/srv/vm"
	kernel-patches/boot.sh --kernel debian-6.12 --root "$root" --init --timeout 900 \
		--console "$logs/vm.console" /srv/vm 2>"$logs/vm.err" | tee "$logs/vm.log" | lines
	local status=${PIPESTATUS[0]}
	case $status in
	0 | 77) return 0 ;;
	esac
	# One that was not made, or has complained, failed without a line of a test.
	[ "$status" = 1 ] || echo "FAILED vm (status $status, see $logs/vm.err)"
	return 1
}

# part NAME COMMAND...: 77: it has said what it skipped
part() {
	local name=$1 status
	shift
	"$@"
	status=$?
	[ $status != 0 ] && [ $status != 77 ] || return 0
	failed=1
	[ -z "$machine_leader" ] || machine_run journalctl --boot --no-pager >"$logs/$name.journal" 2>&1
	[ ! -e "$logs/$name.log" ] || tail -n 200 "$logs/$name.log" >&2
	echo "$name: see $logs/$name.journal" >&2
}

kills=${POSTCOPY_KILLS:-100}
if [ "${1-}" = --kills ]; then
	kills=${2:?how often}
	shift 2
fi
why=$(machine_usable) || skip_all "$why. As root:  apt-get install --no-install-recommends $PACKAGES_SYSTEMD"
[ -x build/release/tests/support/testguest ] || skip_all "no build/release: run ./check.sh build first"
mkdir -p $logs
root=$(tests/systemd/root.sh 2>"$logs/root.log" | tail -n 1) || skip_all "$root"
[ -e "$root" ] || skip_all "$root"
packages_both
trap machine_stop EXIT
trap 'exit 1' INT TERM HUP
machine_start "$root" $LIMIT || skip_all "no machine with systemd on this host"
part install install
part faults program faults "$@"
part upgrade program upgrade "$@"
[ $# -gt 0 ] || part vm vm
exit $failed
