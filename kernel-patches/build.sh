#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Makes a kernel for boot.sh and prints the folder it is in, as the last line:
#   bzImage, config, and for "patched" and "stock" selftests/ with the programs of
#   the tree's tools/testing/selftests/vm that boot.sh's users run.
# The folder is kept under ${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd/kernel, named
# by a hash of source, series, options and compiler: nothing is built twice.
# What is needed beside the packages of packages_needed is apt and, the first time
# only, the Debian archive.  No root is needed if the packages are there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd/kernel
export CCACHE_DIR="${CCACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd/ccache}"

usage() {
	cat <<TEXT
usage: build.sh [--jobs N] [--extra PATCH]... patched|stock|debian-6.12
  patched      Debian's 6.1 source with the series in 6.1/
  stock        the same without it
  debian-6.12  Debian's own newest 6.12 cloud kernel, as it comes
  --extra P    apply P after the series (to see a test fail without some part)
TEXT
}

say() {
	echo "build.sh: $*" >&2
}

die() {
	say "$*"
	exit 1
}

packages_needed="build-essential flex bison bc libelf-dev libssl-dev kmod cpio xz-utils patch
	ccache"

# want_packages PACKAGE...: install what is missing, or say how to
want_packages() {
	local package missing=""
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
			missing+=" $package"
	done
	[ -n "$missing" ] || return 0
	[ "$(id -u)" = 0 ] || die "missing packages. As root:  apt-get install$missing"
	say "installing$missing"
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
		-o Dpkg::Use-Pty=0 install --no-install-recommends $missing >/dev/null
}

# alone: from here on, one at a time fetches and builds.  Who finds what it needs in
# the cache does not wait for it.
alone() {
	flock -n 9 || { say "waiting for another build"; flock 9; }
}

# archive_refresh: a new machine has no list of packages
archive_refresh() {
	[ "$(id -u)" = 0 ] || return 0
	apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 || say "apt-get update failed, going on"
}

# deb_fetch PACKAGE[=VERSION] FOLDER: download and unpack, without installing
deb_fetch() {
	local folder=$2
	rm -rf "$folder"
	mkdir -p "$folder"
	# apt's download user may not enter the cache, and root's apt warns about it.
	(cd "$folder" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$1" >&2) ||
		return 1
	dpkg-deb -x "$folder"/*.deb "$folder" && rm -f "$folder"/*.deb
}

# tarball_get: sets tarball_path and tarball_hash
tarball_get() {
	local newest
	tarball_path=/usr/src/$tarball
	[ -e "$tarball_path" ] && tarball_check && return
	tarball_path=$cache/source-$version/usr/src/$tarball
	[ -e "$tarball_path" ] && tarball_check && return
	alone
	[ -e "$tarball_path" ] && tarball_check && return
	say "fetching $package $version"
	apt-cache show "$package=$version" >/dev/null 2>&1 || archive_refresh
	if deb_fetch "$package=$version" "$cache/source-$version" && tarball_check; then
		return
	fi
	# The archive keeps the newest version only.  apt has checked its signature.
	newest=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: *//p')
	[ -n "$newest" ] && [ "$newest" != "(none)" ] ||
		die "apt knows no $package (apt-get update?)"
	say "WARNING: the archive has $package $newest, the series was made for $version."
	say "It is applied without fuzz; if that fails, get $version from snapshot.debian.org"
	say "and put $tarball into /usr/src, or rebase the series."
	rm -rf "$cache/source-$version"
	tarball_path=$cache/source-$newest/usr/src/$tarball
	[ -e "$tarball_path" ] || deb_fetch "$package=$newest" "$cache/source-$newest" ||
		die "cannot fetch $package $newest"
	tarball_hash=$(sha256sum <"$tarball_path" | cut -d' ' -f1)
}

tarball_check() {
	tarball_hash=$(sha256sum <"$tarball_path" | cut -d' ' -f1)
	[ "$tarball_hash" = "$sha256" ]
}

# config_check CONFIG: has any option of the fragment been dropped?
config_check() {
	local line option dropped=0
	while read -r line; do
		case $line in
		CONFIG_*=n | '# CONFIG_'*' is not set')
			option=$(grep -o 'CONFIG_[A-Z0-9_]*' <<<"$line")
			! grep -q "^$option=" "$1" || { say "not off: $option"; dropped=1; }
			;;
		CONFIG_*)
			grep -qxF "$line" "$1" || { say "dropped: $line"; dropped=1; }
			;;
		esac
	done <"$here/kernel.config"
	return $dropped
}

# series_apply TREE
series_apply() {
	local name
	[ "$what" = stock ] || while read -r name; do
		case $name in '' | '#'*) continue ;; esac
		patch -d "$1" -p1 --fuzz=0 --no-backup-if-mismatch -s <"$here/6.1/$name" ||
			die "$name does not apply"
	done <"$here/6.1/series"
	for name in ${extra[@]+"${extra[@]}"}; do
		patch -d "$1" -p1 --fuzz=0 --no-backup-if-mismatch -s <"$name" ||
			die "$name does not apply"
	done
}

# The programs are built against the tree's own headers, in a folder of their own.
selftests_build() {
	local tree=$1 out=$2 vm=$1/tools/testing/selftests/vm
	make -s -C "$tree" "${make_args[@]}" INSTALL_HDR_PATH="$work/headers" headers_install
	mkdir -p "$out"
	gcc -O2 -Wall -I "$tree" -I "$work/headers/include" -o "$out/userfaultfd" \
		"$vm/userfaultfd.c" "$vm/vm_util.c" -lrt -lpthread
	[ ! -e "$vm/uffd-poison.c" ] ||
		gcc -O2 -Wall -I "$tree" -I "$work/headers/include" -o "$out/uffd-poison" \
			"$vm/uffd-poison.c" -lpthread
}

# kernel_build FOLDER: into FOLDER.new, then renamed: a folder that exists is complete
kernel_build() {
	local tree=$work/tree
	rm -rf "$work" "$1.new"
	mkdir -p "$tree" "$work/out" "$1.new/selftests"
	say "unpacking $tarball"
	tar -x --strip-components=1 -C "$tree" -f "$tarball_path"
	series_apply "$tree"
	make_args=(O="$work/out" CC="ccache gcc" KBUILD_BUILD_USER=postcopyd
		KBUILD_BUILD_HOST=postcopyd KBUILD_BUILD_TIMESTAMP="1970-01-01 00:00:00 UTC")
	make -s -C "$tree" "${make_args[@]}" KCONFIG_ALLCONFIG="$here/kernel.config" allnoconfig \
		>"$1.new/log" 2>&1 || die "allnoconfig failed, see $1.new/log"
	config_check "$work/out/.config" || die "kernel.config asks for what cannot be had"
	say "building bzImage, log in $1.new/log"
	export CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1
	make -C "$tree" "${make_args[@]}" -j"$jobs" bzImage >>"$1.new/log" 2>&1 ||
		{ tail -n 20 "$1.new/log" >&2; die "the kernel does not build"; }
	selftests_build "$tree" "$1.new/selftests" >>"$1.new/log" 2>&1 ||
		{ tail -n 20 "$1.new/log" >&2; die "the selftests do not build"; }
	cp "$work/out/arch/x86/boot/bzImage" "$1.new/"
	cp "$work/out/.config" "$1.new/config"
	mv "$1.new" "$1"
	rm -rf "$work"
}

kernel_6_1() {
	local folder
	# shellcheck disable=SC1091 # five assignments
	. "$here/6.1/SOURCE"
	tarball_get
	folder=$cache/$what-$({
		echo "$tarball_hash"
		gcc --version | head -n 1
		cat "$here/kernel.config"
		[ "$what" = stock ] || (cd "$here/6.1" && cat series -- *.patch)
		[ ${#extra[@]} = 0 ] || cat -- "${extra[@]}"
	} | sha256sum | cut -c1-16)
	work=$cache/work-$what
	[ -e "$folder" ] || alone
	if [ ! -e "$folder" ]; then
		# shellcheck disable=SC2086 # a list of words
		want_packages $packages_needed
		kernel_build "$folder"
	fi
	echo "$folder"
}

# The newest that apt knows
debian_name() {
	apt-cache search --names-only '^linux-image-6\.12\..*deb12-cloud-amd64-unsigned$' |
		cut -d' ' -f1 | sort -V | tail -n 1
}

# modules_keep FOLDER: what boot.sh and tests/vmm put into an initramfs, in the order
# in which they are loaded
modules_keep() {
	local name
	for name in overlay failover net_failover virtio_net virtio_blk; do
		find "$1/lib" -name "$name.ko*" -exec cp {} "$1/" \;
	done
}

# Debian's kernel needs its overlay module, and has virtiofs instead of 9p.
kernel_debian() {
	local name version folder kept
	name=$(debian_name)
	[ -n "$name" ] || { archive_refresh; name=$(debian_name); }
	if [ -n "$name" ]; then
		version=$(apt-cache policy "$name" | sed -n 's/^ *Candidate: *//p')
		folder=$cache/debian-$name-$version
	else
		folder=$(ls -d "$cache"/debian-linux-image-6.12* 2>/dev/null | sort -V | tail -n 1)
		[ -n "$folder" ] || die "apt knows no 6.12 cloud kernel for Debian 12 (apt-get update?)"
	fi
	kept=$folder/virtio_blk.ko.xz
	[ -e "$kept" ] || alone
	if [ ! -e "$kept" ]; then
		say "fetching $name $version"
		deb_fetch "$name=$version" "$folder.new" || die "cannot fetch $name"
		mv "$folder.new"/boot/vmlinuz-* "$folder.new/bzImage"
		mv "$folder.new"/boot/config-* "$folder.new/config"
		modules_keep "$folder.new"
		rm -rf "$folder.new/lib" "$folder.new/boot" "$folder.new/usr"
		rm -rf "$folder" # one without all the modules
		mv "$folder.new" "$folder"
	fi
	echo "$folder"
}

jobs=$(nproc) extra=()
while [ $# -gt 1 ]; do
	case $1 in
	--jobs) jobs=$2; shift 2 ;;
	--extra) extra+=("$(realpath "$2")"); shift 2 ;;
	*) usage >&2; exit 2 ;;
	esac
done
what=${1-}
case $what in
-h | --help) usage; exit 0 ;;
patched | stock | debian-6.12) ;;
*) usage >&2; exit 2 ;;
esac
mkdir -p "$cache" "$CCACHE_DIR"
exec 9>"$cache/lock"
if [ "$what" = debian-6.12 ]; then kernel_debian; else kernel_6_1; fi
