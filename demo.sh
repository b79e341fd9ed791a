#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Migrates a guest's memory between two "hosts" with poisoned pages, for real:
# builds the programs, makes keys, starts an agent and a daemon in network
# namespaces of their own (as root; on loopback otherwise), runs a guest on both
# sides, and checks every byte. Exit status 0 only if nothing was off.
set -euo pipefail
cd "$(dirname "$0")"
. scripts/common.sh

usage() {
	cat <<TEXT
usage: ./demo.sh [--size SIZE] [--threads N]
  --size SIZE     guest memory, half memfd, half anonymous (default 1G)
  --threads N     guest threads that touch all of it at random (default 4)
TEXT
}

size=1G threads=4
while [ $# -gt 0 ]; do
	case $1 in
	--size) size=${2:?--size needs a value}; shift 2 ;;
	--threads) threads=${2:?--threads needs a value}; shift 2 ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done
case $size in
*G) half=$((${size%G} * 512))M ;;
*M) half=$((${size%M} / 2))M ;;
*) echo "demo.sh: --size $size: expected a number and M or G, like 1G" >&2; exit 2 ;;
esac

work="" pids="" namespaces=""

clean_up() {
	local status=$? pid ns
	trap - EXIT INT TERM
	for pid in $pids; do kill "$pid" 2>/dev/null || true; done
	for pid in $pids; do wait "$pid" 2>/dev/null || true; done
	for ns in $namespaces; do ip netns delete "$ns" 2>/dev/null || true; done
	if [ -n "$work" ]; then
		if [ $status != 0 ]; then
			for log in "$work"/*.log; do
				[ -s "$log" ] || continue
				echo "--- ${log##*/}" >&2
				grep -v '^lost-page ' "$log" | tail -n 15 >&2 || true
			done
		fi
		rm -rf "$work"
	fi
	exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM

die() {
	echo "demo.sh: $*" >&2
	exit 1
}

step() {
	printf '\n== %s\n' "$*"
}

# wait_for WHAT COMMAND...: until it succeeds, at most 60 s
wait_for() {
	local what=$1 tries=0
	shift
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 1200 ] || die "$what: not within 60 s"
		sleep 0.05
	done
}

step "Packages and build"
# shellcheck disable=SC2086 # lists of words
packages_ensure $PACKAGES_BUILD $PACKAGES_RUN $PACKAGES_TEST ||
	die "the packages above are needed to build"
userfaultfd_usable || die "$(userfaultfd_remedy)"
export CCACHE_DIR="${CCACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd/ccache}"
mkdir -p "$CCACHE_DIR" build
build() {
	cmake --preset release &&
		cmake --build --preset release --target postcopyd postcopy-sourced postcopyctl testguest
}
build >build/demo-build.log 2>&1 || {
	tail -n 30 build/demo-build.log >&2
	die "the build failed"
}
bin=$PWD/build/release
work=$(mktemp -d "${TMPDIR:-/tmp}/postcopy-demo.XXXXXX")

step "Two hosts"
in_source="" in_destination="" address=127.0.0.1
two_namespaces() {
	local a=pcsrc$$ b=pcdst$$
	ip netns add $a && namespaces="$a" && ip netns add $b && namespaces="$a $b" &&
		ip link add veth0 netns $a type veth peer name veth0 netns $b &&
		ip -n $a address add 10.77.0.1/24 dev veth0 && ip -n $a link set veth0 up &&
		ip -n $a link set lo up && ip -n $b link set lo up &&
		ip -n $b address add 10.77.0.2/24 dev veth0 && ip -n $b link set veth0 up &&
		in_source="ip netns exec $a" in_destination="ip netns exec $b" address=10.77.0.1
}
if is_root && two_namespaces 2>"$work/netns.err"; then
	echo "network namespaces ${namespaces/ / and } with a veth pair"
	port=7770
else
	echo "loopback (no right to make network namespaces)"
	port=$((20000 + $$ % 20000))
fi

step "Keys"
conf/make-pki.sh "$work/pki"

write_config() { # NAME CERTIFICATE SECTIONS
	cat >"$work/$1.conf" <<CONF
[tls]
certificate = $work/pki/$2.pem
key = $work/pki/$2.key
ca = $work/pki/ca.pem
[log]
target = stderr
$3
CONF
}
write_config postcopy-sourced source "[listen]
address = $address:$port
[sockets]
control = $work/source.sock
export = $work/export.sock"
write_config postcopyd destination "[sockets]
control = $work/control.sock
attach = $work/attach.sock
status = $work/status.sock"

step "Daemons"
$in_source "$bin/source/postcopy-sourced" --config "$work/postcopy-sourced.conf" \
	>"$work/postcopy-sourced.log" 2>&1 &
pids="$!"
$in_destination "$bin/daemon/postcopyd" --config "$work/postcopyd.conf" \
	>"$work/postcopyd.log" 2>&1 &
daemon_pid=$!
pids="$pids $daemon_pid"
ctl() {
	"$bin/ctl/postcopyctl" --socket "$work/control.sock" "$@"
}
wait_for "postcopyd" ctl list
wait_for "postcopy-sourced" "$bin/ctl/postcopyctl" --socket "$work/source.sock" list
echo "postcopy-sourced on $address:$port, postcopyd"

step "A guest of $size with 64 poisoned pages, 32 of them known to nobody yet"
id=$("$bin/ctl/postcopyctl" new-id)
"$bin/ctl/postcopyctl" token "$work/token" >/dev/null
guest="--id $id --token-file $work/token --region ram0:memfd:$half --region ram1:anon:$half
	--seed $RANDOM --poison 64 --late 8 --timeout 600"
mkfifo "$work/say"
# shellcheck disable=SC2086 # a list of words
"$bin/tests/support/testguest" source $guest --socket "$work/export.sock" --read-poison \
	--peer-identity destination.postcopy.example \
	<"$work/say" >"$work/source-guest.log" 2>&1 &
source_pid=$!
pids="$pids $source_pid"
exec 3>"$work/say"
wait_for "the export" grep -q '^exported ' "$work/source-guest.log"

step "Migration $id"
ctl start "$id" --source "$address:$port" --peer source.postcopy.example --token-file "$work/token"
# shellcheck disable=SC2086 # a list of words
"$bin/tests/support/testguest" destination $guest --socket "$work/attach.sock" \
	--threads "$threads" </dev/null >"$work/guest.log" 2>&1 &
guest_pid=$!
pids="$pids $guest_pid"
echo freeze >&3 # the guest stands still on the source; from now on it runs here
wait_for "the guest here" grep -q -E '^(touching|exit) ' "$work/guest.log"
echo late >&3 # eight more pages fail while the guest runs

guest_status=0 source_status=0
wait $guest_pid || guest_status=$?
wait $source_pid || source_status=$?
ctl show "$id" --json >"$work/show.json"

number() { # NAME: from what show says
	sed -n "s/^  \"$1\": \([0-9]*\),*$/\1/p" "$work/show.json"
}
said() { # NAME: by the guest
	sed -n "s/^$1 //p" "$work/guest.log" | tail -n 1
}
us() {
	awk -v ns="$(number "$1")" 'BEGIN { printf "%.0f us", ns / 1000 }'
}

# The guest lost exactly the pages that the ledger names.
grep -o '"\(region\|offset\|lost\)": *[^,]*' "$work/show.json" | tr -d '"' |
	awk '$1 == "offset:" { o = $2 } $1 == "region:" { r = $2 } $1 == "lost:" { l = $2 }
		{ n++ } n % 3 == 0 { for (i = 0; i < l; i += 4096) print r, o + i }' |
	sort >"$work/ledger"
sed -n 's/^lost-page //p' "$work/guest.log" | sort >"$work/lost"
ledger_differs=0
cmp -s "$work/ledger" "$work/lost" || ledger_differs=1

step "Result"
seconds=$(awk -v us="$(number total_time_us)" 'BEGIN { printf "%.2f", us / 1000000 }')
rate=$(awk -v b="$(number memory_total)" -v us="$(number total_time_us)" \
	'BEGIN { printf "%.0f", b / 1048576 / (us / 1000000) }')
sigbus="BUS_MCEERR_AR"
[ "$(said sigbus-mceerr-ar)" != 0 ] || sigbus="BUS_ADRERR (kernel without CONFIG_MEMORY_FAILURE)"
row() {
	printf '  %-34s %s\n' "$1" "$2"
}
row "pages checked, twice" "$(said pages)"
row "  healthy" "$(said healthy)"
row "  lost (SIGBUS)" "$(said lost), of these late: $(said lost-late) of 8"
row "  off" "$(said off)"
row "placed by a fault / by the stream" "$(number pages_urgent) / $(number pages_stream)"
row "placed as data / zero / poisoned" \
	"$(number pages_data) / $(number pages_zero) / $(number pages_poisoned)"
row "faults, of these without round trip" "$(number faults), $(number faults_local)"
row "fault latency p50 / p99" "$(us fault_p50_ns) / $(us fault_p99_ns)"
row "fault latency p999 / max" "$(us fault_p999_ns) / $(us fault_max_ns)"
row "seconds, rate" "$seconds s, $rate MiB/s"
row "lost bytes" "$(number lost_bytes)"
row "SIGBUS code" "$sigbus"

[ "$guest_status" = 0 ] || die "the guest found something off (exit status $guest_status)"
[ "$source_status" = 0 ] || die "the source's guest was not released (exit status $source_status)"
[ "$ledger_differs" = 0 ] || die "the guest's lost pages are not those of the ledger"
[ "$(said lost)" -ge 64 ] || die "fewer than 64 pages are lost"
grep -q '"state": "completed"' "$work/show.json" || die "the migration did not complete"
printf '\nEverything that was healthy on the source is healthy here; what was lost stayed lost.\n'
