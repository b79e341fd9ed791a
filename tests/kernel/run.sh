#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the project's tests in virtual machines: on Debian 12's kernel with the series
# of kernel-patches/ (everything, memory that really fails, a guest under KVM, and the
# kernel's own tests), without it (the refusal), and on Debian's 6.12, which has
# UFFDIO_POISON. `./check.sh kernel` calls it and counts its lines, which are
#   passed NAME SECONDS | FAILED NAME | skipped NAME: reason
# Exit status: 0 if nothing failed, 77 if nothing could run (the last line says why).
set -u
cd "$(dirname "$0")/../.." || exit 1
. scripts/common.sh

# PART KERNEL SECONDS: when its machine is stopped; emulated, they are some ten times
# slower than this one, and more when it is busy.
PARTS="poison patched 600
tree patched 1200
unit patched 300
hwpoison patched 600
vmm patched 900
refusal stock 300
demo patched 600
e2e patched 1800
6.12-unit debian-6.12 300
6.12-hwpoison debian-6.12 600
6.12-demo debian-6.12 600
6.12-e2e debian-6.12 1800"

usage() {
	cat <<TEXT
usage: tests/kernel/run.sh [--short] [--KERNEL FOLDER] [PART...]
  --short leaves out of 6.12-e2e what says nothing of poison: newer kernels run that outside, too.
  KERNEL is patched, stock or debian-6.12, and FOLDER a kernel of kernel-patches/build.sh
  (default: what it makes or has). A PART, its kernel, and the seconds it may take:
TEXT
	sed 's/^/    /' <<<"$PARTS"
	cat <<TEXT
  poison: the series' own selftest; tree: those of the kernel's tree; vmm: a guest under KVM
The programs are those of build/release. Logs and consoles are in build/check/kernel/.
TEXT
}

logs=build/check/kernel
failed=0
declare -A kernels=([patched]="" [stock]="" [debian-6.12]="")

skip_all() {
	echo "$*"
	exit 77
}

need() {
	local tool
	for tool in qemu-system-x86_64 busybox cpio; do
		command -v $tool >/dev/null || skip_all "no $tool. As root:  apt-get install" \
			"--no-install-recommends $PACKAGES_KERNEL"
	done
	[ -x build/release/tests/support/testguest ] ||
		skip_all "no build/release: run ./check.sh build first"
}

# kernel_folder KERNEL: build.sh makes it, which takes minutes, only if it is not cached
kernel_folder() {
	local start=$SECONDS
	[ -z "${kernels[$1]}" ] || return 0
	kernels[$1]=$(timeout 3600 kernel-patches/build.sh "$1" 2>"$logs/build-$1.log" | tail -n 1)
	if [ -e "${kernels[$1]}/bzImage" ]; then
		echo "  kernel $1: ready after $((SECONDS - start)) s"
	else
		kernels[$1]=none
	fi
}

# run PART KERNEL SECONDS: in a machine of its own, so that one that hangs costs one part
run() {
	local part=$1 kernel=$2 limit=$3 status prefix="" names=()
	if [ "${kernels[$kernel]}" = none ]; then
		echo "skipped $part: no $kernel kernel: $(tail -n 1 "$logs/build-$kernel.log")"
		return
	fi
	[ "$part" = "${part#*-}" ] || prefix=${part%-*}.
	[ "$short$part" != short6.12-e2e ] || names=(poison)
	timeout -k 10 $((limit + 60)) kernel-patches/boot.sh --kernel "${kernels[$kernel]}" \
		--timeout "$limit" --console "$logs/$part.console" \
		tests/kernel/in_machine.sh "${part#*-}" "${kernels[$kernel]}" "${names[@]}" 2>"$logs/$part.err" |
		tee "$logs/$part.log" | sed -u -n -E "s/^(passed|FAILED|skipped) /\1 $prefix/p"
	status=${PIPESTATUS[0]}
	[ "$status" != 0 ] || return
	failed=1
	# The script's own failures have been said.
	[ "$status" = 1 ] || echo "FAILED $part.machine (status $status, see $logs/$part.err)"
	grep -v -E '^(passed|skipped) ' "$logs/$part.log" | tail -n 100 >&2
	cat "$logs/$part.err" >&2
}

# run_parts KERNELS: one after the other; fails if one failed
run_parts() {
	local part kernel seconds
	failed=0
	# By another descriptor: a machine must not read from the list.
	while read -r part kernel seconds <&3; do
		[[ $1 != *" $kernel "* ]] || run "$part" "$kernel" "$seconds"
	done 3<<<"$chosen"
	return $failed
}

wanted=" " short=""
while [ $# -gt 0 ]; do
	case $1 in
	--patched | --stock | --debian-6.12) kernels[${1#--}]=${2:?a folder}; shift ;;
	--short) short=short ;;
	-h | --help) usage; exit 0 ;;
	*)
		grep -q "^$1 " <<<"$PARTS" || { usage >&2; exit 2; }
		wanted+="$1 "
		;;
	esac
	shift
done
need
mkdir -p $logs
chosen=$(while read -r part kernel seconds; do
	[ "$wanted" != " " ] && [[ $wanted != *" $part "* ]] || echo "$part $kernel $seconds"
done <<<"$PARTS")
for kernel in $(awk '{ print $2 }' <<<"$chosen" | sort -u); do
	kernel_folder "$kernel"
done
[[ "${kernels[*]}" == */* ]] || skip_all "no kernel: see $logs/build-*.log"
# Two machines at a time: an emulated one waits more than it computes.
run_parts " debian-6.12 " &
run_parts " patched stock "
status=$?
wait $! || status=1
exit $status
