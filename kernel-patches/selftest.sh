#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Runs inside the machine that boot.sh starts, as root: the kernel's own tests of
# userfaultfd, from the selftests/ folder of a kernel that build.sh made.
#   selftest.sh FOLDER poison [TEST]...   the series' test of UFFDIO_POISON
#   selftest.sh FOLDER tree [BOUNCES]     the tree's userfaultfd test, all its modes
set -u
folder=$1/selftests part=$2
shift 2

huge_pages() {
	echo "$1" >/proc/sys/vm/nr_hugepages
	[ "$(cat /proc/sys/vm/nr_hugepages)" = "$1" ] || echo "not all of $1 huge pages"
}

run_poison() {
	huge_pages 40
	if [ -e /sys/block/zram0 ] && echo 64M >/sys/block/zram0/disksize; then
		mkswap /dev/zram0 >/dev/null && export UFFD_POISON_SWAP=/dev/zram0
	fi
	exec "$folder/uffd-poison" "$@"
}

# One line for each mode, to compare with another kernel.  16 bounces are all the
# combinations of its four ways to fault and copy; memory is small, for an emulated
# machine.  With ":dev" the userfaultfd comes from /dev/userfaultfd: nothing else differs.
run_tree() {
	local mode dev failed=0 out args bounces
	huge_pages 140
	mkdir -p /run/huge
	mount -t hugetlbfs none /run/huge
	for dev in "" ":dev"; do
		bounces=${1:-$([ -z "$dev" ] && echo 16 || echo 2)}
		for mode in anon hugetlb hugetlb_shared shmem; do
			args=("$mode$dev" 2 "$bounces")
			[[ $mode != hugetlb* ]] || args=("$mode$dev" 16 "$bounces")
			[ "$mode" != hugetlb_shared ] || args+=(/run/huge/uffd-test)
			if out=$("$folder/userfaultfd" "${args[@]}" 2>&1); then
				echo "passed $mode$dev"
			else
				echo "FAILED $mode$dev (status $?)"
				tail -n 5 <<<"$out" | sed 's/^/    /'
				failed=1
			fi
			rm -f /run/huge/uffd-test
		done
	done
	return $failed
}

case $part in
poison) run_poison "$@" ;;
tree) run_tree "$@" ;;
*) echo "selftest.sh: $part?"; exit 2 ;;
esac
