#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the project and runs its tests. The last line is always
# "N passed, N failed, N skipped"; the exit status is 0 only if nothing failed.
set -u
cd "$(dirname "$0")" || exit 1
. scripts/common.sh

QUICK="build format layout unit loop fuzz e2e-quick asan"
# Do they run, and is every page right? Nobody's speed is judged here.
BENCHES="fault-1 faults-16 minor bandwidth memory"
ALL="build format layout unit loop fuzz e2e asan asan-e2e tsan tsan-e2e demo bench tidy cppcheck vmm systemd kernel"

usage() {
	cat <<TEXT
usage: ./check.sh [PART...]
  Without a PART, the quick ones: $QUICK
  all       everything: $ALL
  unit      the leaves, without I/O
  loop      modules with an event loop, over socket pairs
  fuzz      the fuzz targets replay their corpora
  layout    include rule, licence lines, exported symbols
  e2e       real programs, real userfaultfd, real TLS (e2e-quick: the short ones)
  asan      unit, loop and fuzz with AddressSanitizer and UBSan (asan-e2e: e2e, too)
  tsan      unit and loop with ThreadSanitizer (tsan-e2e: lanes end to end)
  lint      format, tidy and cppcheck
  demo      demo.sh
  bench     some of the benchmarks, short, and without a judgement of the figures
  vmm       an unmodified QEMU whose guest moves while it runs (in all: in short)
  systemd   packages, lintian, and in a fresh Debian under a real systemd: install, upgrade,
            purge, and migrations while the services are killed, frozen and replaced
  kernel    in virtual machines: Debian's 6.1 kernel with and without kernel-patches/ (built
            the first time, which takes some 20 minutes), and Debian's 6.12 (in all: in short)
What cannot run on this machine or for this user is skipped, with the reason.
Logs are in build/check/.
TEXT
}

passed=0 failed=0 skipped=0
logs=build/check
jobs=$(nproc)

# report PART RESULT SECONDS TEXT
report() {
	printf '%-10s %-7s %4s s  %s\n' "$1" "$2" "$3" "$4"
}

# skip PART REASON
skip() {
	skipped=$((skipped + 1))
	report "$1" skipped 0 "$2"
}

# simple PART COMMAND...: one part, one test
simple() {
	local part=$1 start=$SECONDS status
	shift
	"$@" >"$logs/$part.log" 2>&1
	status=$?
	if [ $status = 0 ]; then
		passed=$((passed + 1))
		report "$part" passed $((SECONDS - start)) ""
	elif [ $status = 77 ]; then
		skip "$part" "$(tail -n 1 "$logs/$part.log")"
	else
		failed=$((failed + 1))
		tail -n 40 "$logs/$part.log" | sed 's/^/    /'
		report "$part" FAILED $((SECONDS - start)) "see $logs/$part.log"
	fi
	return $status
}

# junit_count FILE ATTRIBUTE: of the test suite
junit_count() {
	sed -n "s/.*[[:space:]]$2=\"\([0-9]*\)\".*/\1/p" "$1" | head -n 1
}

# tests PART PRESET CTEST-OPTION...: every CTest test counts
tests() {
	local part=$1 preset=$2 start=$SECONDS n_tests n_failed n_skipped status runner
	shift 2
	runner="ctest"
	# TSan's shadow memory needs a predictable address space.
	[ "$preset" = tsan ] && setarch -R true 2>/dev/null && runner="setarch -R ctest"
	rm -f "$logs/$part.xml"
	$runner --test-dir "build/$preset" -j "$jobs" --no-tests=error \
		--output-on-failure --output-junit "$PWD/$logs/$part.xml" "$@" >"$logs/$part.log" 2>&1
	status=$?
	n_tests=$(junit_count "$logs/$part.xml" tests 2>/dev/null)
	n_failed=$(junit_count "$logs/$part.xml" failures 2>/dev/null)
	n_skipped=$(junit_count "$logs/$part.xml" skipped 2>/dev/null)
	if [ -z "$n_tests" ] || [ "$n_tests" = 0 ]; then
		failed=$((failed + 1))
		report "$part" FAILED $((SECONDS - start)) "no test ran; see $logs/$part.log"
		return 1
	fi
	passed=$((passed + n_tests - n_failed - n_skipped))
	failed=$((failed + n_failed))
	skipped=$((skipped + n_skipped))
	[ "$n_skipped" = 0 ] || grep -h -A 2 'SKIP:' "$logs/$part.log" | sed -n 's/^.*SKIP: /    skipped: /p'
	if [ $status = 0 ]; then
		report "$part" passed $((SECONDS - start)) "$n_tests tests, $n_skipped skipped"
	else
		[ "$n_failed" != 0 ] || failed=$((failed + 1))
		grep -v -E '^ *[0-9]+/[0-9]+ .*Passed|^ +Start ' "$logs/$part.log" | tail -n 150 | sed 's/^/    /'
		report "$part" FAILED $((SECONDS - start)) "$n_failed of $n_tests tests; see $logs/$part.log"
	fi
	return $status
}

# lines PART COMMAND...: it prints "passed NAME", "FAILED NAME" or "skipped NAME: reason"
lines() {
	local part=$1 start=$SECONDS status n_passed n_failed n_skipped
	shift
	"$@" 2>"$logs/$part.err" | tee "$logs/$part.log" | sed -u 's/^/    /'
	status=${PIPESTATUS[0]}
	if [ "$status" = 77 ]; then
		skip "$part" "$(tail -n 1 "$logs/$part.log")"
		return 77
	fi
	n_passed=$(grep -c '^passed ' "$logs/$part.log")
	n_failed=$(grep -c '^FAILED ' "$logs/$part.log")
	n_skipped=$(grep -c '^skipped ' "$logs/$part.log")
	[ "$status" = 0 ] || [ "$n_failed" != 0 ] || n_failed=1
	passed=$((passed + n_passed)) failed=$((failed + n_failed)) skipped=$((skipped + n_skipped))
	if [ "$n_failed" = 0 ]; then
		report "$part" passed $((SECONDS - start)) "$n_passed tests, $n_skipped skipped"
	else
		tail -n 100 "$logs/$part.err" | sed 's/^/    /'
		report "$part" FAILED $((SECONDS - start)) \
			"$n_failed of $((n_passed + n_failed)) tests; see $logs/$part.err"
	fi
	return "$status"
}

build() {
	cmake --preset "$1" && cmake --build --preset "$1"
}

# built PART PRESET: build it once; failure counts for the part
built() {
	[ -e "$logs/built-$2" ] && return 0
	simple "$1" build "$2" || return 1
	: >"$logs/built-$2"
}

# Without what was deleted but not committed yet; without git: all of it.
sources() {
	{
		git ls-files --cached --others --exclude-standard '*.c' '*.h' 2>/dev/null | grep . ||
			find lib daemon source ctl client tests -name '*.[ch]'
	} | grep -v '^kernel-patches/' | while read -r file; do
		[ ! -e "$file" ] || echo "$file"
	done
}

# have PART COMMAND: skip the part where the tool is missing
have() {
	command -v "$2" >/dev/null && return 0
	skip "$1" "$2 is not installed"
	return 1
}

check_format() {
	sources | xargs clang-format --dry-run -Werror
}

check_tidy() {
	sources | grep -E '^(lib|daemon|source|ctl|client)/.*\.c$' |
		xargs -P "$jobs" -n 4 clang-tidy -p build/release --quiet --warnings-as-errors='*'
}

# What is suppressed: MIN() and its like (internalAstError), the cleanup attribute
# (memleak; LeakSanitizer sees real leaks), messages that are packed before their
# parts go out of scope (autoVariables), outputs of functions that failed (uninitvar).
check_cppcheck() {
	local list_headers=$logs/include
	mkdir -p "$list_headers"
	ln -sf /usr/include/utlist.h /usr/include/uthash.h "$list_headers/"
	cppcheck -q -j "$jobs" --std=c11 --enable=warning,performance,portability --inline-suppr \
		--suppress=missingIncludeSystem --suppress=internalAstError --suppress=memleak \
		--suppress=autoVariables --suppress=uninitvar "--suppress=*:$list_headers/*" \
		--error-exitcode=1 -D_GNU_SOURCE -U__cplusplus -I "$list_headers" \
		-I lib -I . -I client/include lib daemon source ctl client
}

can_fault() {
	userfaultfd_usable && return 0
	skip "$1" "$(userfaultfd_remedy)"
	return 1
}

run_part() {
	case $1 in
	build) built build release ;;
	format) have format clang-format && simple format check_format ;;
	layout) built build release && tests layout release -R '^layout[.]' ;;
	unit) built build release && tests unit release -L '^unit$' -E '^layout[.]' ;;
	loop) built build release && tests loop release -L '^loop$' ;;
	fuzz) built build release && tests fuzz release -L '^fuzz$' ;;
	e2e) can_fault e2e && built build release && tests e2e release -L '^e2e' ;;
	e2e-quick) can_fault e2e-quick && built build release && tests e2e-quick release -L '^e2e-quick$' ;;
	asan) built asan-build asan && tests asan asan -L '^(unit|loop|fuzz)$' -E '^layout[.]' ;;
	asan-e2e) can_fault asan-e2e && built asan-build asan && tests asan-e2e asan -L '^e2e' ;;
	tsan) built tsan-build tsan && tests tsan tsan -L '^(unit|loop)$' -E '^layout[.]' ;;
	tsan-e2e) can_fault tsan-e2e && built tsan-build tsan &&
		tests tsan-e2e tsan -R '^e2e[.](memory|reconnect)$' ;;
	tidy) have tidy clang-tidy && built build release && simple tidy check_tidy ;;
	cppcheck) have cppcheck cppcheck && simple cppcheck check_cppcheck ;;
	lint) run_part format; run_part tidy; run_part cppcheck ;;
	demo) can_fault demo && simple demo ./demo.sh ;;
	bench) can_fault bench && built build release &&
		simple bench tests/bench/run --quick --rounds 1 --report --only $BENCHES ;;
	vmm) can_fault vmm && built build release &&
		tests vmm release -L "^${vmm_label:-vmm}\$" ;;
	systemd) built build release && lines systemd tests/systemd/run.sh ;;
	kernel) built build release && lines kernel tests/kernel/run.sh ${kernel_short:+--short} ;;
	all) for part in $ALL; do kernel_short=yes vmm_label=vmm-short run_part "$part"; done ;;
	*) usage >&2; exit 2 ;;
	esac
}

# ensure_packages PART...: what these parts need
ensure_packages() {
	local lint="" kernel="" systemd="" vmm=""
	case " $* " in *" all "* | *" lint "* | *" tidy "* | *" cppcheck "*) lint=$PACKAGES_LINT ;; esac
	case " $* " in *" all "* | *" kernel "*) kernel=$PACKAGES_KERNEL ;; esac
	case " $* " in *" all "* | *" systemd "*) systemd=$PACKAGES_SYSTEMD ;; esac
	case " $* " in *" all "* | *" vmm "*) vmm=$PACKAGES_VMM ;; esac
	# shellcheck disable=SC2086 # lists of words
	if is_root; then
		packages_ensure $PACKAGES_BUILD $PACKAGES_RUN $PACKAGES_TEST $lint $kernel $systemd $vmm
	else
		# These are no reason not to run the rest: their parts are skipped.
		[ -z "$lint$kernel$systemd$vmm" ] ||
			packages_ensure $lint $kernel $systemd $vmm $PACKAGES_TEST || true
		packages_ensure $PACKAGES_BUILD $PACKAGES_RUN libcmocka-dev
	fi
}

case "${1-}" in -h | --help) usage; exit 0 ;; esac
# shellcheck disable=SC2086 # a list of words
[ $# -gt 0 ] || set -- $QUICK
mkdir -p "$logs"
rm -f "$logs"/built-*
export CCACHE_DIR="${CCACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd/ccache}"
mkdir -p "$CCACHE_DIR"
export ASAN_OPTIONS="${ASAN_OPTIONS-detect_stack_use_after_return=0:strict_string_checks=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS-halt_on_error=1:second_deadlock_stack=1:suppressions=$PWD/tests/support/tsan.supp}"

if ensure_packages "$@"; then
	for part in "$@"; do
		run_part "$part"
	done
else
	failed=$((failed + 1))
	report packages FAILED 0 "what is missing is said above"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
