#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What an administrator does with the packages, in a machine of its own (run.sh): install,
# use, reload, upgrade, remove and purge.
# Usage: install_test.sh PACKAGES HIGHER-PACKAGES    prints passed, FAILED as run.sh does
# shellcheck disable=SC2317 # the tests are called by name
set -u
packages=$1 higher=$2
tree=/srv/postcopy
NAMES="postcopyd postcopy-source postcopyctl libpostcopy0 postcopy-qemu libpostcopy-dev"
SERVICES="postcopyd postcopy-sourced"
SOCKETS="postcopyd-control postcopyd-attach postcopyd-status postcopy-sourced-control
	postcopy-sourced-export"
ID=0f0e0d0c-0b0a-4908-8706-050403020100
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
	echo "$*" >&2
	return 1
}

# state: what a purge must leave as it was: files, users, groups, units, packages
state() {
	find / -xdev \( -path /tmp -o -path /srv -o -path /proc -o -path /sys -o -path /dev \
		-o -path /var/tmp -o -path /var/log -o -path /var/cache/ldconfig \
		-o -path '/var/lib/dpkg/*-old' -o -path '/var/lib/dpkg/triggers/*' \
		-o -path '/etc/*-' \) -prune -o -print
	find /run /dev/shm -name '*postcopy*' -not -path '/run/systemd/*' 2>/dev/null
	sed 's/^/passwd /' /etc/passwd
	sed 's/^/group /' /etc/group
	cut -d : -f 1 /etc/shadow /etc/gshadow
	systemctl list-unit-files --no-legend | awk '{ print "unit", $1, $2 }'
	dpkg-query -W
}

main_pid() {
	systemctl show --property MainPID --value "$1.service"
}

# running: both services with their sockets
running() {
	local unit
	for unit in $SERVICES; do
		systemctl --quiet is-active "$unit.service" || fail "$unit.service is not active" || return
		systemctl --quiet is-enabled "$unit.service" || fail "$unit.service is not enabled" || return
	done
	for unit in $SOCKETS; do
		systemctl --quiet is-active "$unit.socket" || fail "$unit.socket is not active" || return
	done
}

# A host that gets the packages has running services, without another step.
test_install() {
	state | sort >"$work/before"
	dpkg -i "$packages"/*.deb || return
	running || return
	[ "$(stat -c '%U %G %a' /run/postcopyd/attach.sock)" = "postcopyd postcopy-vmm 660" ] ||
		fail "attach.sock: $(stat -c '%U %G %a' /run/postcopyd/attach.sock)" || return
	[ "$(stat -c %a /etc/postcopyd/postcopyd.key /etc/postcopyd/ca.key | sort -u)" = 600 ] ||
		fail "somebody but root may read keys"
}

# The operator's command reaches both, and they agree on the keys that were made.
test_command() {
	postcopyctl list || return
	postcopyctl --socket /run/postcopy-sourced/control.sock list || return
	openssl verify -CAfile /etc/postcopyd/ca.crt /etc/postcopyd/postcopyd.crt \
		/etc/postcopyd/postcopy-sourced.crt
}

# The sandbox, as it is loaded, is at most 1.3 by systemd's own measure.
test_security() {
	local unit out
	for unit in $SERVICES; do
		out=$(systemd-analyze security --no-pager --threshold=13 "$unit.service") || {
			grep '✗' <<<"$out" >&2
			fail "$unit: $(tail -n 1 <<<"$out")" || return
		}
		echo "    | $unit, loaded | ${out##*: } |" >&3
	done
}

# Each kind of event has its text for journalctl -x.
test_catalog() {
	local id n=0
	while read -r id; do
		journalctl --dump-catalog "$id" 2>&1 | grep -q '^Subject: ' ||
			fail "the catalog does not know $id" || return
		n=$((n + 1))
	done < <(sed -n 's/^#define MESSAGE_[A-Z_]* "\([0-9a-f]*\)"$/\1/p' "$tree/lib/core/message_ids.h")
	[ "$n" -gt 10 ] || fail "only $n events found"
}

# A reload takes over new settings and keeps the process.
test_reload() {
	local unit pid
	for unit in $SERVICES; do
		pid=$(main_pid "$unit")
		systemctl reload "$unit" || return
		[ "$(main_pid "$unit")" = "$pid" ] || fail "$unit is another process" || return
		systemctl --quiet is-active "$unit" || fail "$unit is not active" || return
	done
}

# An upgrade runs the new program, keeps settings and keys, and loses no migration.
test_upgrade() {
	local pid keys
	echo "# an administrator's line" >>/etc/postcopyd/postcopyd.conf
	keys=$(cat /etc/postcopyd/*.crt /etc/postcopyd/*.key | sha256sum)
	postcopyctl token "$work/token" || return
	postcopyctl start "$ID" --source 127.0.0.1:4950 --peer nobody --token-file "$work/token" || return
	pid=$(main_pid postcopyd)
	dpkg -i --force-confold "$higher"/*.deb || return
	running || return
	[ "$(main_pid postcopyd)" != "$pid" ] || fail "the old program still runs" || return
	readlink "/proc/$(main_pid postcopyd)/exe" "/proc/$(main_pid postcopy-sourced)/exe" |
		grep deleted && fail "a replaced program runs" && return 1
	postcopyctl --version | grep -F "$(basename "$higher")" || fail "another version" || return
	postcopyctl list | grep -F "$ID" || fail "the migration is lost" || return
	postcopyctl cancel --force "$ID" || return
	tail -n 1 /etc/postcopyd/postcopyd.conf | grep -q "an administrator's line" ||
		fail "settings are lost" || return
	[ "$(cat /etc/postcopyd/*.crt /etc/postcopyd/*.key | sha256sum)" = "$keys" ] ||
		fail "keys were replaced"
}

# Installed again, removed and installed again: running, and what was disabled stays so.
test_reinstall() {
	dpkg -i --force-confold "$higher"/*.deb && running || return
	# shellcheck disable=SC2086 # a list of names
	dpkg --remove $NAMES || return
	[ ! -e /usr/sbin/postcopyd ] && [ -e /etc/postcopyd/postcopyd.conf ] &&
		[ -e /etc/postcopyd/postcopyd.key ] || fail "removed too much or too little" || return
	dpkg -i "$higher"/*.deb && running || return
	systemctl disable --now postcopy-sourced.service || return
	dpkg -i "$higher"/*.deb || return
	! systemctl --quiet is-active postcopy-sourced.service || fail "a disabled service runs"
}

# Without one package's purge touching what the other needs: then nothing is left.
test_purge() {
	dpkg --purge postcopyd || return
	[ -e /etc/postcopyd/ca.crt ] && getent group postcopy-vmm >/dev/null ||
		fail "what postcopy-source needs is gone" || return
	# shellcheck disable=SC2046 # a list of names
	dpkg --purge $(tr ' ' '\n' <<<"$NAMES" | grep -v '^postcopyd$') || return
	systemctl daemon-reload
	state | sort >"$work/after"
	diff "$work/before" "$work/after" || fail "that is left, or gone"
}

# A host's own keys are used as they are; without a key for its CA nothing is made up.
test_own_keys() {
	mkdir -p /etc/postcopyd
	sh "$tree/conf/make-pki.sh" --cert postcopyd --dns host.example "$work/pki" || return
	cp "$work/pki/ca.pem" /etc/postcopyd/ca.crt
	cp "$work/pki/postcopyd.pem" /etc/postcopyd/postcopyd.crt
	cp "$work/pki/postcopyd.key" /etc/postcopyd/postcopyd.key
	dpkg -i "$packages"/*.deb || return
	cmp "$work/pki/postcopyd.pem" /etc/postcopyd/postcopyd.crt || fail "replaced" || return
	cmp "$work/pki/ca.pem" /etc/postcopyd/ca.crt || fail "replaced" || return
	systemctl --quiet is-active postcopyd.service || fail "postcopyd does not run" || return
	[ ! -e /etc/postcopyd/postcopy-sourced.crt ] || fail "a certificate nobody trusts" || return
	[ "$(systemctl is-active postcopy-sourced.service)" = inactive ] ||
		fail "postcopy-sourced: $(systemctl is-active postcopy-sourced.service)" || return
	# shellcheck disable=SC2086 # a list of names
	dpkg --purge $NAMES
}

failed=0
for name in install command security catalog reload upgrade reinstall purge own_keys; do
	start=$SECONDS
	if "test_$name" 3>&1 >"$work/log" 2>&1 </dev/null; then
		echo "passed install.$name $((SECONDS - start))"
	else
		failed=1
		echo "FAILED install.$name"
		tail -n 60 "$work/log" >&2
	fi
done
exit $failed
