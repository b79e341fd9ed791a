# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034 # the lists are used by those who source this
#
# Shared by demo.sh and check.sh (sourced): which Debian packages the project
# needs, and what this machine and user can do.

PACKAGES_BUILD="gcc libc6-dev cmake ninja-build pkg-config libevent-dev libprotobuf-c-dev
	protobuf-c-compiler libssl-dev libsystemd-dev libinih-dev libjansson-dev uthash-dev"
PACKAGES_RUN="openssl iproute2 python3"
PACKAGES_TEST="libcmocka-dev ccache clang-format"
PACKAGES_LINT="clang-tidy cppcheck prometheus"
# virtiofsd is in qemu-system-common. What a kernel is built with, build.sh installs.
PACKAGES_KERNEL="qemu-system-x86 qemu-system-common seabios busybox-static cpio xz-utils"
# An unmodified QEMU whose guest moves.
# The second line is for the Linux guest.
PACKAGES_VMM="qemu-system-x86 seabios
	busybox-static cpio xz-utils"

# What makes packages and looks at them, and what a machine with systemd is made with.
PACKAGES_PACKAGES="dpkg-dev file gzip lintian"
PACKAGES_SYSTEMD="$PACKAGES_PACKAGES mmdebstrap systemd-container util-linux"

is_root() {
	[ "$(id -u)" = 0 ]
}

# packages_missing PACKAGE...: those that are not installed
packages_missing() {
	local package
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
			echo "$package"
	done
}

# packages_ensure PACKAGE...: install what is missing; without root say the one
# command and fail.
packages_ensure() {
	local missing
	missing=$(packages_missing "$@" | tr '\n' ' ')
	[ -n "$missing" ] || return 0
	if ! is_root; then
		echo "Missing packages. As root:  apt-get install --no-install-recommends $missing" >&2
		return 1
	fi
	echo "Installing: $missing"
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update &&
		DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
			-o Dpkg::Use-Pty=0 install --no-install-recommends $missing >/dev/null
}

# Can this user open a userfaultfd that serves kernel-mode faults, too?
userfaultfd_usable() {
	is_root || { [ -r /dev/userfaultfd ] && [ -w /dev/userfaultfd ]; } ||
		[ "$(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null)" = 1 ]
}

userfaultfd_remedy() {
	local user
	user=$(id -un)
	if [ -e /dev/userfaultfd ]; then
		echo "$user may not open /dev/userfaultfd. As root:  setfacl -m u:$user:rw /dev/userfaultfd  (package acl)"
	else
		echo "no userfaultfd for $user. As root:  sysctl vm.unprivileged_userfaultfd=1"
	fi
}
