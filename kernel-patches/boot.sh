#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Runs a script as root in a virtual machine with a kernel from build.sh and this
# machine's file system, read-only below an overlay in memory, and returns the
# script's exit status.  What the script prints goes to standard output, the
# kernel's console to a log of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
	cat <<TEXT
usage: boot.sh [OPTION]... SCRIPT [ARG]...
  --kernel K    patched (default), stock or debian-6.12, or the path of a folder
                that build.sh made
  --memory M    in MiB (default 2048)
  --cpus N      (default 2; 1 if it is emulated and the kernel changes its own code)
  --timeout S   seconds until the machine is stopped (default 600)
  --console F   where the kernel's console goes (default: a temporary file that is
                kept, and named, if the run fails)
  --append A    more words for the kernel's command line
  --root F      the machine's file system is this folder instead of /; SCRIPT, as it is
                called there
  --init        run the file system's own init (systemd), and SCRIPT when it is up
The exit status is the script's, 124 if the time was up, 125 if there was no
machine or it ended before the script did, and 126 if the script succeeded but
the kernel has reported a WARNING, BUG or the like.
KVM is used if it works here, else QEMU's emulation.  No root is needed, but files
that you may not read cannot be read in the machine either.
TEXT
}

say() {
	echo "boot.sh: $*" >&2
}

fail() {
	say "$*"
	exit 125
}

# Not every /dev/kvm runs a machine: nested ones may fail to set a register.
kvm_works() {
	[ -w /dev/kvm ] && (echo quit | timeout 10 qemu-system-x86_64 -M q35 -accel kvm -cpu host \
		-nodefaults -display none -S -monitor stdio) >/dev/null 2>&1
}

# initramfs_make: BusyBox, and an /init that goes over to the host's files
initramfs_make() {
	local root=$tmp/initramfs
	mkdir -p "$root"/{bin,dev,proc,sys,lower,memory,root}
	cp "$(command -v busybox)" "$root/bin/busybox"
	[ ! -e "$folder"/overlay.ko.xz ] || xz -dc "$folder"/overlay.ko.xz >"$root/overlay.ko"
	[ ! -e "$folder"/overlay.ko ] || cp "$folder"/overlay.ko "$root/overlay.ko"
	cat >"$root/init" <<-'INIT'
		#!/bin/busybox sh
		b=/bin/busybox
		$b mount -t proc proc /proc
		$b mount -t sysfs sysfs /sys
		$b mount -t devtmpfs dev /dev
		[ ! -e /overlay.ko ] || $b insmod /overlay.ko
		if $b grep -q virtiofs /proc/filesystems; then
		        $b mount -t virtiofs -o ro host /lower
		else
		        $b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /lower
		fi || { echo "boot.sh: cannot mount the host's files"; $b poweroff -f; }
		$b mount -t tmpfs -o size=75% tmpfs /memory
		$b mkdir /memory/upper /memory/work
		$b mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work overlay /root ||
		        { echo "boot.sh: cannot mount the overlay"; $b poweroff -f; }
		for d in proc sys dev; do $b mount --move /$d /root/$d; done
		$b cp /run.sh /root/.boot.sh
		[ ! -e /unit ] || {
		        $b cp /unit /root/etc/systemd/system/boot-script.service
		        $b mkdir -p /root/etc/systemd/system/multi-user.target.wants
		        $b ln -s ../boot-script.service /root/etc/systemd/system/multi-user.target.wants
		        exec $b switch_root /root /sbin/init
		}
		exec $b chroot /root /bin/sh /.boot.sh
	INIT
	chmod +x "$root/init"
	[ -z "$init" ] || printf '%s\n' "[Unit]" "After=multi-user.target" "[Service]" \
		"Type=oneshot" "TimeoutStartSec=infinity" "ExecStart=/bin/sh /.boot.sh" >"$root/unit"
	# Runs on the host's files: ttyS1 is the script's output, ttyS2 its status.
	cat >"$root/run.sh" <<-RUN
		export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
		$([ -z "$init" ] && run_without_init || echo "cd /")
		stty -F /dev/ttyS1 raw -echo
		$(printf '%q ' "$script" "$@") </dev/null >/dev/ttyS1 2>&1
		echo "status \$?" >/dev/ttyS2
		sync
		echo o >/proc/sysrq-trigger
		while :; do :; done # a builtin: the root may be gone already
	RUN
	(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$tmp/initramfs.gz"
}

# run_without_init: what an init would have done before the script
run_without_init() {
	cat <<-RUN
		mkdir -p /dev/pts /dev/shm
		mount -t devpts devpts /dev/pts
		mount -t tmpfs tmpfs /dev/shm
		mount -t tmpfs tmpfs /run
		[ ! -d /sys/fs/cgroup ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		[ ! -d /sys/kernel/debug ] || mount -t debugfs debugfs /sys/kernel/debug
		hostname postcopyd-vm
		ip link set lo up
		cd $(printf %q "$PWD")
	RUN
}

# qemu_run: the rest of the command line, and how this kernel sees the files
qemu_run() {
	local accel=(-accel "tcg,thread=multi" -cpu max,la57=off) files
	# Under emulation on a busy host the check that the timer ticks may fail.
	local append="console=ttyS0 panic=-1 oops=panic loglevel=7 mitigations=off no_timer_check $extra_append"
	# Without udev its device never comes, and the start would wait for it.
	[ -z "$init" ] || append+=" systemd.mask=serial-getty@ttyS0.service"
	! kvm_works || accel=(-accel kvm -cpu host)
	# Debian 12's QEMU may let one CPU run what another has just replaced (text_poke_bp():
	# "Oops: int3" now and then).
	if [ -z "$cpus" ]; then
		cpus=2
		[[ ${accel[1]} != tcg* ]] || ! grep -q '^CONFIG_JUMP_LABEL=y' "$folder/config" || cpus=1
	fi
	if grep -q '^CONFIG_9P_FS=[ym]' "$folder/config"; then
		files=(-virtfs "local,path=$share,mount_tag=host,security_model=none,readonly=on,multidevs=remap")
	else
		virtiofsd_start
		files=(-object "memory-backend-memfd,id=ram,size=${memory}M,share=on" -numa "node,memdev=ram"
			-chardev "socket,id=files,path=$tmp/virtiofs.sock"
			-device "vhost-user-fs-pci,chardev=files,tag=host")
		# Debian 12's QEMU emulates cmpxchg16b in a way that this kernel does not survive.
		[[ ${accel[1]} != tcg* ]] || accel[3]+=,-cx16
	fi
	timeout -k 10 "$limit" qemu-system-x86_64 -M q35 "${accel[@]}" -smp "$cpus" -m "$memory" \
		-nodefaults -no-user-config -display none -no-reboot "${files[@]}" \
		-kernel "$folder/bzImage" -initrd "$tmp/initramfs.gz" -append "$append" \
		-serial "file:$console" -serial "stdio" -serial "file:$tmp/status" </dev/null
}

virtiofsd_start() {
	local daemon=/usr/lib/qemu/virtiofsd n=0
	[ -x "$daemon" ] || fail "this kernel needs $daemon (package qemu-system-common)"
	[ "$(id -u)" = 0 ] || fail "this kernel needs virtiofsd, and that needs root"
	"$daemon" --socket-path="$tmp/virtiofs.sock" -o "source=$share,sandbox=chroot,cache=always" \
		>"$tmp/virtiofsd.log" 2>&1 &
	virtiofsd_pid=$!
	# It has no other way to say that its socket is there.
	while [ ! -S "$tmp/virtiofs.sock" ]; do
		n=$((n + 1))
		[ $n -lt 100 ] && kill -0 $virtiofsd_pid 2>/dev/null ||
			fail "virtiofsd: $(tail -n 1 "$tmp/virtiofsd.log")"
		sleep 0.1
	done
}

# What no kernel says that is in good health
bad_words='WARNING: |BUG: |kernel BUG at|Oops: |general protection fault|Kernel panic'
bad_words+='|blocked for more than|soft lockup|rcu.* stall|Bad rss-counter|Bad page|bad pmd'
bad_words+='|list_(add|del) corruption|refcount_t: |sysfs: cannot create duplicate'

cleanup() {
	local status=$?
	trap - EXIT
	[ -z "$virtiofsd_pid" ] || kill "$virtiofsd_pid" 2>/dev/null || true
	[ $status = 0 ] || [ -z "$own_console" ] || say "the console is in $console"
	[ $status != 0 ] || [ -z "$own_console" ] || rm -f "$console"
	rm -rf "$tmp"
	exit $status
}

kernel=patched memory=2048 cpus="" limit=600 console="" own_console="" extra_append="" virtiofsd_pid=""
share=/ init=""
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=$2; shift 2 ;;
	--memory) memory=$2; shift 2 ;;
	--cpus) cpus=$2; shift 2 ;;
	--timeout) limit=$2; shift 2 ;;
	--console) console=$2; shift 2 ;;
	--append) extra_append=$2; shift 2 ;;
	--root) share=$(realpath "$2"); shift 2 ;;
	--init) init=1; shift ;;
	-h | --help) usage; exit 0 ;;
	--) shift; break ;;
	-*) usage >&2; exit 125 ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || { usage >&2; exit 125; }
script=$1
if [ "$share" = / ]; then
	script=$(command -v -- "$1") || fail "cannot run $1"
	script=$(realpath "$script")
fi
shift
for tool in qemu-system-x86_64 busybox cpio; do
	command -v $tool >/dev/null ||
		fail "no $tool. As root:  apt-get install --no-install-recommends qemu-system-x86 seabios busybox-static cpio"
done
tmp=$(mktemp -d)
trap cleanup EXIT
[ -n "$console" ] || { console=$(mktemp -t console.XXXXXX); own_console=1; }
case $kernel in
*/*) folder=$kernel ;;
*) folder=$("$here/build.sh" "$kernel" | tail -n 1) || fail "no kernel" ;;
esac
[ -e "$folder/bzImage" ] || fail "no bzImage in $folder"
initramfs_make "$@"
: >"$console" >"$tmp/status"
qemu_status=0
qemu_run || qemu_status=$?
status=$(tr -d '\r' <"$tmp/status" | sed -n 's/^status \([0-9]*\)$/\1/p')
bad=$(grep -E -n -m 5 "$bad_words" "$console" || true)
[ -z "$bad" ] || { say "the kernel complained:"; sed 's/^/    /' <<<"$bad" >&2; }
if [ -z "$status" ]; then
	[ $qemu_status != 124 ] || { say "the time was up after $limit s"; exit 124; }
	tail -n 5 "$console" | sed 's/^/    /' >&2
	fail "the machine ended before the script did (QEMU's status: $qemu_status)"
fi
[ "$status" = 0 ] || exit "$status"
[ -z "$bad" ] || exit 126
