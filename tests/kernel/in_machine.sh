#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs inside the machine that run.sh starts, as root, from the project's folder:
#   in_machine.sh unit|e2e [FILE...]|hwpoison|refusal|demo
# with the programs of build/release. One line a test:
#   passed NAME SECONDS | FAILED NAME (and what it said) | skipped NAME: reason
set -u
export POSTCOPY_BUILD=$PWD/build/release POSTCOPY_PATIENCE=180 POSTCOPY_LARGEST=64
export POSTCOPY_HWPOISON=1 # memory that fails here is back when the machine is started again
failed=0

# judge NAME COMMAND...: the exit status tells; 77 is a skip
judge() {
	local name=$1 start=$SECONDS out status
	shift
	out=$("$@" 2>&1)
	status=$?
	case $status in
	0) echo "passed $name $((SECONDS - start)) s" ;;
	77) echo "skipped $name: $(sed -n 's/^.*SKIP: //p' <<<"$out" | tail -n 1)" ;;
	*)
		failed=1
		tail -n 150 <<<"$out" | sed 's/^/    /'
		echo "FAILED $name (status $status)"
		;;
	esac
}

# each_function FILE: every function of it is a test
each_function() {
	local file=$1 name line
	name=$(basename "$file" _test.py)
	python3 -B "$file" 2>&1 | while IFS= read -r line; do
		case $line in
		'ok '*) sed -E "s/^ok test_([a-z0-9_]*) \\((.*)\\)/passed $name.\\1 \\2/" <<<"$line" ;;
		'SKIP: '*) echo "skipped $name.${line#SKIP: test_}" ;;
		'FAILED '*) echo "FAILED $name.${line#FAILED test_}" ;;
		*) echo "    $line" ;;
		esac
	done
	[ "${PIPESTATUS[0]}" != 1 ] || failed=1
}

# Cgroups, sockets and the like are tested elsewhere: these touch userfaultfd.
unit() {
	local path
	for path in "$POSTCOPY_BUILD"/tests/unit/unit-daemon_{uffd,resolve,placement,placement_answer,placement_race}; do
		judge "${path##*/}" "$path"
	done
}

part=${1-}
[ $# = 0 ] || shift
case $part in
unit) unit ;;
e2e)
	[ $# -gt 0 ] || set -- tests/e2e/*_test.py
	for file in "$@"; do each_function "$file"; done
	;;
hwpoison) each_function tests/kernel/hwpoison_test.py ;;
refusal) each_function tests/kernel/refusal_test.py ;;
demo) judge demo ./demo.sh --size 128M ;;
*) echo "in_machine.sh: unknown part $part"; exit 2 ;;
esac
exit $failed
