#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes a small fresh Debian with systemd, of this host's release and from its package
# sources, as a tar file under ${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd, and prints the
# file's path. It has what the project's packages depend on, so that they can be installed
# without network; of the project itself nothing. Made anew when this file changes, or
# after --fresh.
# Exit status: 77 if it cannot be made here (the last line says why).
set -euo pipefail
cd "$(dirname "$0")/../.."

PACKAGES="systemd systemd-sysv dbus init-system-helpers procps openssl passwd
	python3-minimal libpython3-stdlib
	libevent-2.1-7 libevent-pthreads-2.1-7 libevent-openssl-2.1-7 libprotobuf-c1 libjansson4
	libinih1 libssl3"

skip() {
	echo "$*"
	exit 77
}

# The host's own sources; which archive that is, is the host's matter.
sources() {
	find /etc/apt/sources.list /etc/apt/sources.list.d -type f \
		\( -name '*.list' -o -name '*.sources' \) 2>/dev/null | sort
}

fresh=0
[ "${1-}" != --fresh ] || fresh=1
[ "$(id -u)" = 0 ] || skip "making a Debian root is for root"
command -v mmdebstrap >/dev/null || skip "mmdebstrap is not installed"
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
if ! grep -q '^ID=debian$' /etc/os-release || [ -z "$release" ]; then
	skip "this host is not Debian: packages made here need not fit one"
fi
[ -n "$(sources)" ] || skip "apt has no sources on this host"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/postcopyd
tar=$cache/root-$({ echo "$release"; cat tests/systemd/root.sh; } | sha256sum | cut -c 1-12).tar
mkdir -p "$cache"
exec 9>"$cache/root.lock"
flock 9
if [ $fresh = 1 ] || [ ! -e "$tar" ]; then
	rm -f "$tar.new" "$cache"/root-*.tar
	# shellcheck disable=SC2046 # a list of paths without blanks
	mmdebstrap --variant=minbase --mode=root --format=tar --include="$(tr -s '\n\t ' ',' <<<"$PACKAGES" |
		sed 's/,$//')" "$release" "$tar.new" $(sources) >&2 9>&- ||
		skip "mmdebstrap could not make a Debian root (no network?)"
	mv "$tar.new" "$tar"
fi
echo "$tar"
