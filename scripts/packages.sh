#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the Debian packages in build/packages (a folder of its own for each version) and
# has lintian look at them. The last line of standard output is that folder.
# Exit status: 0 if lintian found no error.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

usage() {
	echo "usage: scripts/packages.sh [--version X.Y.Z] [--no-lintian]"
}

version="" check=1
while [ $# -gt 0 ]; do
	case $1 in
	--version) version=${2:?a version}; shift ;;
	--no-lintian) check=0 ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
	shift
done

# Programs for /usr, without tests. Another version compiles only the files that say it.
# shellcheck disable=SC2086 # lists of words
packages_ensure $PACKAGES_BUILD $PACKAGES_PACKAGES >&2
tree=build/packages/tree
cmake -S . -B $tree -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_INSTALL_PREFIX=/usr \
	-DBUILD_TESTING=OFF "-DPOSTCOPY_VERSION=$version" >&2
cmake --build $tree >&2
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:.*=//p' $tree/CMakeCache.txt)
out=$PWD/build/packages/$version
rm -rf "$out"
# What is installed is the same for each user.
umask 022
(cd $tree && rm -rf _CPack_Packages && cpack -B "$out" >&2)
rm -rf "$out/_CPack_Packages"
if [ $check = 1 ]; then
	# They are not for Debian's archive, whose bugs a first upload closes.
	lintian --allow-root --fail-on error --tag-display-limit 0 \
		--suppress-tags initial-upload-closes-no-bugs "$out"/*.deb |
		tee "$out/lintian.log" >&2
fi
echo "$out"
