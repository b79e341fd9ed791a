#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the project's tests in virtual machines with Debian 12's kernel: with the
# series of kernel-patches/ (everything, and memory that really fails), and without
# it (the refusal). `./check.sh kernel` calls it and counts its lines, which are
#   passed NAME SECONDS | FAILED NAME | skipped NAME: reason
# Exit status: 0 if nothing failed, 77 if nothing could run (the last line says why).
set -u
cd "$(dirname "$0")/../.." || exit 1

usage() {
	cat <<TEXT
usage: tests/kernel/run.sh [--patched FOLDER] [--stock FOLDER] [PART...]
  PART is unit, e2e, hwpoison, demo (patched kernel) or refusal (stock kernel); default: all
  --patched, --stock   a kernel of kernel-patches/build.sh (default: what it makes or has)
The programs are those of build/release. Logs and consoles are in build/check/kernel/.
TEXT
}

logs=build/check/kernel
failed=0 machines=0
declare -A kernels=([patched]="" [stock]="")
# Seconds until a machine is stopped: emulated, they are some ten times slower than this one.
declare -A limits=([unit]=300 [e2e]=1800 [hwpoison]=600 [demo]=600 [refusal]=300)

skip_all() {
	echo "$*"
	exit 77
}

need() {
	local tool
	for tool in build.sh boot.sh; do
		[ -x kernel-patches/$tool ] || skip_all "no kernel-patches/$tool"
	done
	for tool in qemu-system-x86_64 busybox cpio; do
		command -v $tool >/dev/null || skip_all "no $tool. As root:  apt-get install" \
			"--no-install-recommends qemu-system-x86 seabios busybox-static cpio"
	done
	[ -x build/release/tests/support/testguest ] ||
		skip_all "no build/release: run ./check.sh build first"
}

# kernel_folder KERNEL: build.sh makes it, which takes minutes, only if it is not cached
kernel_folder() {
	[ -z "${kernels[$1]}" ] || return 0
	kernels[$1]=$(timeout 1800 kernel-patches/build.sh "$1" 2>"$logs/build-$1.log" | tail -n 1)
	[ -e "${kernels[$1]}/bzImage" ] || kernels[$1]=none
}

# run PART KERNEL: in a machine of its own, so that one that hangs costs one part
run() {
	local part=$1 kernel=$2 status
	kernel_folder "$kernel"
	if [ "${kernels[$kernel]}" = none ]; then
		echo "skipped $part: no $kernel kernel: $(tail -n 1 "$logs/build-$kernel.log")"
		return
	fi
	machines=$((machines + 1))
	timeout -k 10 $((limits[$part] + 60)) kernel-patches/boot.sh --kernel "${kernels[$kernel]}" \
		--timeout "${limits[$part]}" --console "$logs/$part.console" \
		tests/kernel/in_machine.sh "$part" 2>"$logs/$part.err" |
		tee "$logs/$part.log" | grep --line-buffered -E '^(passed|FAILED|skipped) '
	status=${PIPESTATUS[0]}
	[ "$status" != 0 ] || return
	failed=1
	# The script's own failures have been said.
	[ "$status" = 1 ] || echo "FAILED $part.machine (status $status, see $logs/$part.err)"
	grep -v -E '^(passed|skipped) ' "$logs/$part.log" | tail -n 100 >&2
	cat "$logs/$part.err" >&2
}

parts=()
while [ $# -gt 0 ]; do
	case $1 in
	--patched | --stock) kernels[${1#--}]=${2:?a folder}; shift ;;
	unit | e2e | hwpoison | demo | refusal) parts+=("$1") ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
	shift
done
need
mkdir -p $logs
[ ${#parts[@]} -gt 0 ] || parts=(unit refusal hwpoison demo e2e)
for part in "${parts[@]}"; do
	if [ "$part" = refusal ]; then run "$part" stock; else run "$part" patched; fi
done
[ $machines -gt 0 ] || skip_all "no kernel: see $logs/build-*.log"
exit $failed
