#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Shows that the series is bisectable: applies one patch after the other by "git am"
# to a clean tree, and after each builds a whole bzImage, with the options of
# build.sh; compiles the files that the series touches with W=1 and checks them by
# sparse; and runs checkpatch.pl --strict on the patch.  Prints a table, a line for
# each patch, as soon as it is known.  "New" is a warning that the clean tree does
# not have.  Fails if anything in the table is not as it should be.
# Takes half an hour to an hour on two cores, and 5 GB, which it frees unless it fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd
work=$cache/each-patch
jobs=$(nproc)

usage() {
	cat <<TEXT
usage: each-patch.sh [--jobs N] [--work FOLDER] [--keep]
  --work F   where to work (default: $work). What is there is deleted.
  --keep     keep the tree, the objects and the logs
TEXT
}

die() {
	echo "each-patch.sh: $*" >&2
	exit 2
}

# source_unpack: the pinned source, as a repository of a single commit
source_unpack() {
	local path package version tarball sha256
	# shellcheck disable=SC1091 # four assignments
	. "$here/6.1/SOURCE"
	for path in "/usr/src/$tarball" "$cache/kernel/source-$version/usr/src/$tarball" ""; do
		[ ! -e "$path" ] || sha256sum --status -c - <<<"$sha256  $path" || continue
		[ ! -e "$path" ] || break
	done
	[ -n "$path" ] || die "no $tarball of $package $version (build.sh stock fetches it)"
	mkdir -p "$tree" "$work/out" "$work/out-w" "$logs"
	tar -x --strip-components=1 -C "$tree" -f "$path"
	git -C "$tree" init -q
	git -C "$tree" config gc.auto 0
	git -C "$tree" config user.name each-patch.sh
	git -C "$tree" config user.email each-patch@localhost
	git -C "$tree" add -A -f
	git -C "$tree" commit -q -m "$package $version"
}

# configure OUT
configure() {
	make -s -C "$tree" O="$1" "${make_args[@]}" KCONFIG_ALLCONFIG="$here/kernel.config" \
		allnoconfig
}

# bzimage_build NUMBER
bzimage_build() {
	{
		configure "$work/out" &&
			make -C "$tree" O="$work/out" "${make_args[@]}" -j"$jobs" bzImage
	} >"$logs/$1.build" 2>&1
}

# objects_check NUMBER: W=1 first; then there is nothing to compile, only to check
objects_check() {
	local make=(make -s -k -C "$tree" O="$work/out-w" "${make_args[@]}" -j"$jobs" W=1)
	: >"$logs/$1.sparse"
	configure "$work/out-w" >"$logs/$1.w" 2>&1 || return 1
	# A header may not have changed, and the warning is wanted all the same.
	(cd "$work/out-w" && rm -f "${objects[@]}")
	"${make[@]}" "${objects[@]}" >>"$logs/$1.w" 2>&1 || return 1
	[ -z "$sparse" ] || "${make[@]}" C=2 CHECK="$sparse" "${objects[@]}" >"$logs/$1.sparse" 2>&1
}

# warnings LOG: without line numbers, which each patch moves
warnings() {
	grep -E 'warning:|error:' "$1" | sed -E 's/:[0-9]+(:[0-9]+)?:/:/g' | sort || true
}

# new_count NUMBER KIND: how many that the clean tree has not; says which
new_count() {
	local new
	new=$(comm -13 <(warnings "$logs/0000.$2") <(warnings "$logs/$1.$2"))
	[ -z "$new" ] || sed "s/^/$1 $2: /" <<<"$new" >&2
	grep -c . <<<"$new" || true
}

# style_remarks PATCH: the kinds of remarks that checkpatch.pl makes, if any
style_remarks() {
	(cd "$tree" && perl scripts/checkpatch.pl --strict --terse --show-types "$1" 2>/dev/null) |
		sed -n 's/^[^ ]*: \(ERROR\|WARNING\|CHECK\):\([A-Z_]*\):.*/\2/p' | sort | uniq |
		paste -s -d,
}

# row PATCH: applies, builds and checks it
row() {
	local number=${1:0:4} am=ok image=ok w s style bad=0
	git -C "$tree" am -q "$here/6.1/$1" >"$logs/$number.am" 2>&1 || die "git am $1 fails"
	bzimage_build "$number" || { image=FAILED; bad=1; }
	w=$(new_count "$number" build)
	[ "$w" = 0 ] || { image+=", $w new warnings"; bad=1; }
	objects_check "$number" || { tail -n 20 "$logs/$number".{w,sparse} >&2; bad=1; }
	w=$(new_count "$number" w)
	s=$(new_count "$number" sparse)
	[ "$w$s" = 00 ] || bad=1
	[ -n "$sparse" ] || s="no sparse"
	style=$(style_remarks "$here/6.1/$1")
	# Whether MAINTAINERS covers a new file is not for a script to say.
	[ -z "$style" ] || [ "$style" = FILE_PATH_CHANGES ] || bad=1
	echo "| ${number#00} | $am | $image | $w | $s | ${style:-none} |"
	return $bad
}

keep=0 failed=0
while [ $# -gt 0 ]; do
	case $1 in
	--jobs) jobs=$2; shift 2 ;;
	--work) work=$2; shift 2 ;;
	--keep) keep=1; shift ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done
tree=$work/tree logs=$work/logs
sparse=$(command -v sparse || true)
export CCACHE_DIR="${CCACHE_DIR:-$cache/ccache}" CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1
# An empty LOCALVERSION: no "+" for a commit without a tag.
make_args=(CC="ccache gcc" LOCALVERSION= KBUILD_BUILD_USER=postcopyd
	KBUILD_BUILD_HOST=postcopyd KBUILD_BUILD_TIMESTAMP="1970-01-01 00:00:00 UTC")
mapfile -t patches < <(grep -v '^#' "$here/6.1/series")
mapfile -t objects < <(cd "$here/6.1" && sed -n 's,^+++ b/\(.*\)\.c$,\1.o,p' "${patches[@]}" |
	grep -v '^tools/' | sort -u)
rm -rf "$work"
source_unpack
{ bzimage_build 0000 && objects_check 0000; } || die "the clean tree does not build, see $logs"
echo "| patch | git am | bzImage | W=1: new | sparse: new | checkpatch --strict |"
echo "| --- | --- | --- | --- | --- | --- |"
for patch in "${patches[@]}"; do
	row "$patch" || failed=1
done
if [ $keep = 1 ] || [ $failed = 1 ]; then
	echo "each-patch.sh: the logs are in $logs" >&2
else
	rm -rf "$work"
fi
exit $failed
