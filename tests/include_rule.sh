#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checks the include rule of the layers (docs/architecture.md):
#   core <- wire <- net <- {daemon, source}; ctl and client see core, wire and the
#   public header; generated protobuf code only in wire; OpenSSL only in net; the
#   leaves of the fault path see core and their own header only.
# Usage: include_rule.sh [ROOT]       exit 0: the rule holds, 1: each violation on a line
#        include_rule.sh --self-test  shows, on trees made for it, that violations are found
set -euo pipefail

leaves='uffd|region|page_map|in_flight|resolve|ledger|stats'

# What a file may include of the project, of protobuf and of OpenSSL.
allowed_for() {
	local file=$1
	if [[ $file =~ ^daemon/($leaves)\.[ch]$ ]]; then
		echo "core daemon/${BASH_REMATCH[1]}.h"
		return
	fi
	case $file in
	lib/core/*) echo core ;;
	lib/wire/*) echo core wire protobuf ;;
	lib/net/*) echo core wire net openssl ;;
	daemon/*) echo core wire net daemon ;;
	source/*) echo core wire net source ;;
	ctl/*) echo core wire ctl public ;;
	client/*) echo core wire client public ;;
	esac
}

# The kind of an included header, or its path from the root for what is ours:
# "" for headers of the system, "unknown" where a quoted one cannot be found.
kind_of() {
	local root=$1 file=$2 mark=$3 name=$4 path=""
	case $name in
	*.pb-c.h | protobuf-c/* | google/protobuf-c/*) echo protobuf && return ;;
	openssl/*) echo openssl && return ;;
	postcopy.h | client/include/postcopy.h) echo public && return ;;
	core/* | wire/* | net/*) echo "lib/$name" && return ;;
	daemon/* | source/* | ctl/* | client/* | lib/*) echo "$name" && return ;;
	esac
	[[ $mark == '"' ]] || return 0
	path=$(realpath -m --relative-to="$root" "$root/${file%/*}/$name")
	case $path in
	client/include/postcopy.h) echo public ;;
	lib/* | daemon/* | source/* | ctl/* | client/*)
		if [[ -e $root/$path ]]; then echo "$path"; else echo unknown; fi ;;
	*) echo unknown ;;
	esac
}

is_allowed() {
	local kind=$1 part
	shift
	for part in "$@"; do
		case $kind in
		"$part" | "lib/$part/"* | "$part/"*) return 0 ;;
		esac
	done
	return 1
}

check_line() {
	local root=$1 file=$2 line=$3 text=$4 kind allowed
	local pattern='^[[:space:]]*#[[:space:]]*include[[:space:]]*(["<])([^">]+)[">]'
	if [[ ! $text =~ $pattern ]]; then
		echo "$file:$line: an include through a macro cannot be checked"
		return 1
	fi
	kind=$(kind_of "$root" "$file" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}")
	read -ra allowed <<<"$(allowed_for "$file")"
	if [[ -z $kind ]] || is_allowed "$kind" "${allowed[@]}"; then
		return 0
	fi
	echo "$file:$line: includes ${BASH_REMATCH[2]} ($kind), may include: ${allowed[*]}"
	return 1
}

check_tree() {
	local root=$1 failed=0 file line text part n_files=0 parts=()
	for part in lib/core lib/wire lib/net daemon source ctl client; do
		[[ -d $root/$part ]] && parts+=("$part")
	done
	if [[ ${#parts[@]} -eq 0 ]]; then
		echo "$root: none of the project's folders is here"
		return 1
	fi
	while IFS= read -r file; do
		n_files=$((n_files + 1))
		while IFS=: read -r line text; do
			check_line "$root" "$file" "$line" "$text" || failed=1
		done < <(grep -nE '^[[:space:]]*#[[:space:]]*include' "$root/$file")
	done < <(cd "$root" && find "${parts[@]}" -name '*.[ch]' | sort)
	[[ $failed -eq 1 ]] || echo "include rule: $n_files files, no violation"
	return $failed
}

# expect pass|fail FILE INCLUDE: a tree with this one line in this one file.
expect() {
	local want=$1 file=$2 include=$3 got=pass
	local tree=$scratch/tree
	rm -rf "$tree"
	mkdir -p "$tree/${file%/*}" "$tree/lib/net" "$tree/daemon"
	touch "$tree/lib/net/channel.h" "$tree/daemon/lane.h"
	printf '/* x */\n#include %s\n' "$include" >"$tree/$file"
	check_tree "$tree" >"$scratch/out" || got=fail
	if [[ $got == fail ]] && ! grep -q "^$file:2: " "$scratch/out"; then
		got="fail without naming the line"
	fi
	if [[ $got != "$want" ]]; then
		echo "self-test: $include in $file: expected $want, got $got"
		return 1
	fi
}

self_test() {
	local failed=0 want file include n=0
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	while read -r want file include; do
		n=$((n + 1))
		expect "$want" "$file" "$include" || failed=1
	done <<'CASES'
pass lib/core/a.c "core/error.h"
pass lib/core/a.c <stdio.h>
fail lib/core/a.c "wire/frame.h"
fail lib/core/a.c <wire/frame.h>
fail lib/core/a.c "../net/channel.h"
fail lib/core/a.c "missing.h"
fail lib/core/a.c HEADER
fail lib/core/a.c "postcopy.pb-c.h"
fail lib/core/a.c <openssl/ssl.h>
pass lib/wire/a.c "postcopy.pb-c.h"
pass lib/wire/a.c <protobuf-c/protobuf-c.h>
fail lib/wire/a.c "net/channel.h"
pass lib/net/a.c <openssl/ssl.h>
pass lib/net/a.c "wire/frame.h"
fail lib/net/a.c "daemon/lane.h"
fail lib/net/a.c <protobuf-c/protobuf-c.h>
pass daemon/fault_path.c "net/channel.h"
pass daemon/fault_path.c "lane.h"
fail daemon/fault_path.c "source/export.h"
fail daemon/fault_path.c <openssl/err.h>
fail daemon/fault_path.c "attach.pb-c.h"
fail daemon/fault_path.c <postcopy.h>
pass daemon/page_map.c "daemon/page_map.h"
pass daemon/page_map.c "core/bitmap.h"
fail daemon/page_map.c "daemon/ledger.h"
fail daemon/page_map.c "lane.h"
fail daemon/ledger.h "wire/frame.h"
pass source/export.c "net/channel.h"
fail source/export.c "daemon/page_map.h"
pass ctl/main.c "wire/control_message.h"
pass ctl/main.c <postcopy.h>
fail ctl/main.c "net/ipc.h"
fail ctl/main.c "client/preload.h"
pass client/attach.c "postcopy.h"
pass client/attach.c "core/fdpass.h"
fail client/attach.c "net/ipc.h"
fail client/attach.c "daemon/lane.h"
CASES
	[[ $failed -eq 1 ]] || echo "self-test: $n cases as expected"
	return $failed
}

if [[ ${1:-} == --self-test ]]; then
	self_test
else
	check_tree "$(realpath "${1:-$(dirname "$0")/..}")"
fi
