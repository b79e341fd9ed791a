# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A machine with systemd for tests (sourced by run.sh): a copy of the root that root.sh
# makes, booted by systemd-nspawn. It has no network but its own loopback, sees this tree,
# read-only, at /srv/postcopy, and has the programs that are not in a package in /srv/bin
# as in a build folder.
#   machine_usable    says why not, and fails, where such a machine cannot run
#   machine_start TAR SECONDS    it ends by itself after that time
#   machine_run COMMAND...       in it, as root
#   machine_halt      its files stay in $machine_dir/root
#   machine_stop      and throw away; also for an EXIT trap

machine_dir="" machine_pid="" machine_leader=""

machine_usable() {
	if [ "$(id -u)" != 0 ]; then
		echo "a machine with systemd is for root"
	elif ! command -v systemd-nspawn >/dev/null; then
		echo "systemd-nspawn is not installed"
	elif [ ! -e /dev/userfaultfd ]; then
		echo "no /dev/userfaultfd, and systemd-nspawn allows no userfaultfd(2)"
	else
		return 0
	fi
	return 1
}

# machine_fill FOLDER: the programs of the tests, where tests/support/e2e.py looks for them
machine_fill() {
	mkdir -p "$1/srv/bin/tests/support" "$1/srv/bin/ctl" "$1/srv/postcopy"
	cp build/release/tests/support/testguest "$1/srv/bin/tests/support/"
	ln -s /usr/bin/postcopyctl "$1/srv/bin/ctl/postcopyctl"
	: >"$1/etc/machine-id" # systemd makes one
}

# machine_descend: from what we have started to the machine's init, once they are there
machine_descend() {
	local nspawn leader
	nspawn=$(pgrep -P "$machine_pid") && leader=$(pgrep -P "$nspawn") &&
		[ "$(cat "/proc/$leader/comm" 2>/dev/null)" = systemd ] && machine_leader=$leader
}

# machine_booted: whether it has started all units, or tried to
machine_booted() {
	case $(machine_run systemctl is-system-running 2>/dev/null) in
	running | degraded) return 0 ;;
	esac
	return 1
}

# machine_wait FUNCTION SECONDS: until it is true
machine_wait() {
	local deadline=$((SECONDS + $2))
	until "$1"; do
		[ $SECONDS -lt $deadline ] && [ -d "/proc/$machine_pid" ] || return 1
		sleep 0.1
	done
}

machine_start() {
	machine_dir=$(mktemp -d /var/tmp/postcopy-machine-XXXXXX)
	mkdir "$machine_dir/root"
	tar -xpf "$1" -C "$machine_dir/root" || return 1
	machine_fill "$machine_dir/root" || return 1
	# --register=no --keep-unit: this host need not run systemd itself.
	SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout -k 30 "$2" systemd-nspawn --quiet \
		-D "$machine_dir/root" -M "postcopy-test-$$" --register=no --keep-unit \
		--console=pipe --private-network --bind=/dev/userfaultfd \
		"--bind-ro=$PWD:/srv/postcopy" -b </dev/null >"$machine_dir/console" 2>&1 &
	machine_pid=$!
	if ! machine_wait machine_descend 30 || ! machine_wait machine_booted 60; then
		echo "the machine does not start; its console:"
		tail -n 20 "$machine_dir/console"
		return 1
	fi
}

machine_run() {
	nsenter -t "$machine_leader" -a -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
		POSTCOPY_BUILD=/srv/bin "$@"
}

machine_halt() {
	if [ -n "$machine_pid" ]; then
		# It is thrown away: nothing in it need end in order.
		[ -z "$machine_leader" ] || kill -KILL "$machine_leader" 2>/dev/null
		kill -TERM "$machine_pid" 2>/dev/null
		wait "$machine_pid" 2>/dev/null
	fi
	machine_pid="" machine_leader=""
}

machine_stop() {
	machine_halt
	[ -z "$machine_dir" ] || rm -rf "$machine_dir"
	machine_dir=""
}
