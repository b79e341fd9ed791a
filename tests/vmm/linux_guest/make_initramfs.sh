#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# usage: make_initramfs.sh KERNEL-FOLDER LINUX-GUEST OUTPUT
# The Linux guest's whole file system: BusyBox, init, the modules that Debian's
# cloud kernel needs for virtio (from the folder that kernel-patches/build.sh made),
# and the program linux-guest. Not compressed: emulated CPUs are slow.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 3 ] || { sed -n '3s/^# //p' "$0" >&2; exit 2; }
kernel=$1 program=$2 output=$(realpath "$3")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"/{bin,dev,proc,sys}
cp "$(command -v busybox)" "$tmp/bin/busybox"
cp "$program" "$tmp/linux-guest"
cp "$here/init" "$tmp/init"
for module in failover net_failover virtio_net virtio_blk; do
	xz -dc "$kernel/$module.ko.xz" >"$tmp/$module.ko"
done
(cd "$tmp" && find . | cpio -o -H newc --quiet) >"$output"
