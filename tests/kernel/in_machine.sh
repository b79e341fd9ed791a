#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs inside the machine that run.sh starts, as root, from the project's folder:
#   in_machine.sh unit|e2e|hwpoison|vmm|refusal|demo KERNEL [NAME...]
# with the programs of build/release. One line a test:
#   passed NAME SECONDS | FAILED NAME (and what it said) | skipped NAME: reason
set -u
export POSTCOPY_BUILD=$PWD/build/release POSTCOPY_PATIENCE=180 POSTCOPY_LARGEST=24
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
		*) echo "    $name: $line" ;;
		esac
	done
	[ "${PIPESTATUS[0]}" != 1 ] || failed=1
}

# e2e FILE...: as many at once as there are CPUs
e2e() {
	# One pipe for all: lines that are written to a pipe at once stay whole.
	printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" "$0" functions "$kernel" | cat
	[ "${PIPESTATUS[1]}" = 0 ] || failed=1
}

# The series' own test, in TAP: a line for each test with the kinds of memory it ran on.
poison() {
	kernel-patches/selftest.sh "$kernel" poison >/tmp/poison.tap 2>&1
	awk '/^(not )?ok / {
			bad = $1 == "not"; name = $(bad + 3); kind = $(bad + 4)
			skip = $0 ~ /# SKIP/
			if (!(name in order)) { order[name] = ++n; names[n] = name }
			if (bad) failed[name] = failed[name] " " kind
			else if (skip) skipped[name] = skipped[name] " " kind
			else passed[name] = passed[name] " " kind
		}
		/^1\.\./ { plan = substr($1, 4) }
		/^(not )?ok / { ran++ }
		END {
			for (i = 1; i <= n; i++) {
				name = names[i]
				if (name in failed) print "FAILED poison." name ":" failed[name]
				else if (name in passed) print "passed poison." name ":" passed[name]
				if (name in skipped) print "skipped poison." name ":" skipped[name]
			}
			if (!ran || ran != plan) print "FAILED poison: " ran + 0 " of " plan " tests ran"
		}' /tmp/poison.tap | tee /tmp/poison.lines
	! grep -q '^FAILED ' /tmp/poison.lines || { failed=1; sed 's/^/    /' /tmp/poison.tap; }
}

# The tree's own tests, as they come: passed or FAILED and the mode
tree() {
	kernel-patches/selftest.sh "$kernel" tree >/tmp/tree.out 2>&1 || failed=1
	sed -E 's/^(passed|FAILED) /\1 tree./' /tmp/tree.out
}

# Cgroups, sockets and the like are tested elsewhere: these touch userfaultfd.
unit() {
	local path
	for path in "$POSTCOPY_BUILD"/tests/unit/unit-daemon_{uffd,resolve,placement,placement_answer,placement_race}; do
		judge "${path##*/}" "$path"
	done
}

part=${1-} kernel=${2-}
shift 2
case $part in
functions) each_function "$1" ;;
unit | poison | tree) "$part" ;;
e2e)
	# What another kernel may do otherwise; links, operators, what a restart refuses and the
	# like are tested elsewhere.
	[ $# -gt 0 ] || set -- memory poison hugetlb collapse death restart bad_attach
	files=("${@/#/tests/e2e/}")
	e2e "${files[@]/%/_test.py}"
	;;
hwpoison | refusal) each_function "tests/kernel/${part}_test.py" ;;
vmm)
	each_function tests/vmm/machine_check_test.py
	each_function tests/vmm/example_vmm_test.py
	;;
demo) judge demo ./demo.sh --size 32M ;;
*) echo "in_machine.sh: unknown part $part"; exit 2 ;;
esac
exit $failed
