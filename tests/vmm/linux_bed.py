# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest in Debian's QEMU, and what a test sees of it from outside.

The guest (linux_guest/) checks its memory, its disk and its network without an
end and says so on its console. A Machine is one QEMU: the one in which it boots,
or one that waits to receive it. Console and Peer belong to the guest, not to a
machine, and see it on whatever host it is.

Emulated by Debian 12's QEMU, one CPU may run code that another has just replaced
(text_poke_bp(): "Oops: int3" now and then). Almost all of that happens while the
kernel starts: so it starts with one CPU and the second one joins before the
guest's program begins. Such a QEMU also has a cmpxchg16b that this kernel does not
survive.
"""
import functools
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import zlib

from e2e import BUILD, PATIENCE, ROOT, Skip, check
from qmp import Monitor, connect

HERE = pathlib.Path(__file__).resolve().parent
QEMU = "qemu-system-x86_64"
PROGRAM = BUILD / "tests/vmm/linux-guest"
MEMORY_MIB = 512
CHECKED_MIB = 320  # of them; the guest's program walks over so much
DISK_MIB = 16
CPUS = 2
BOOT_PATIENCE = 4 * PATIENCE
ON_THE_COMMAND_LINE = ("console=ttyS0 quiet panic=-1 oops=panic mitigations=off no_timer_check "
                       "nokaslr maxcpus=1 noreplace-smp")
PROGRESS = re.compile(
    r"(?P<ms>\d+) ms: pass (?P<passes>\d+), (?P<pages>\d+) pages right, (?P<pages_wrong>\d+) "
    r"wrong; disk (?P<blocks>\d+) right, (?P<blocks_wrong>\d+) wrong; net (?P<packets>\d+) right, "
    r"(?P<lost>\d+) lost, (?P<packets_wrong>\d+) wrong; touch p99 (?P<p99_us>\d+) us, "
    r"max (?P<max_us>\d+) us$")
# What no kernel says that is in good health.
BAD_WORDS = re.compile(
    "WRONG|BROKEN|WARNING: |BUG: |kernel BUG at|Oops|general protection fault|Kernel panic|"
    "blocked for more than|soft lockup|rcu.* stall|Bad page|I/O error|segfault")
WORD_STEP = 0x9e3779b97f4a7c15  # as in linux_guest/pattern.c
TURNED_OVER = bytes(255 - b for b in range(256))


def need_linux_guest():
    for tool in (QEMU, "busybox", "cpio", "xz"):
        if not shutil.which(tool):
            raise Skip(f"no {tool}: apt-get install --no-install-recommends qemu-system-x86 "
                       "seabios busybox-static cpio xz-utils")
    if not PROGRAM.exists():
        raise Skip(f"{PROGRAM} is not built")


@functools.cache
def kernel_folder():
    """Debian's cloud kernel, from the cache or the archive."""
    r = subprocess.run([ROOT / "kernel-patches/build.sh", "debian-6.12"], capture_output=True,
                       text=True, check=False)
    if r.returncode != 0:
        raise Skip(f"no Debian kernel: {r.stderr.strip().splitlines()[-1:]}")
    return pathlib.Path(r.stdout.splitlines()[-1])


class Console:
    """What the guest said, on all its hosts: a line may begin on one and end on another."""

    def __init__(self):
        self.changed = threading.Condition()
        self.lines = []       # (time, host, text)
        self.complaints = []  # those that no healthy guest says
        self.partial = b""

    def feed(self, host, data):
        with self.changed:
            *whole, self.partial = (self.partial + data).split(b"\n")
            now = time.monotonic()
            for line in whole:
                text = line.decode(errors="replace").strip()
                self.lines.append((now, host, text))
                if BAD_WORDS.search(text):
                    self.complaints.append(text)
            self.changed.notify_all()

    def count(self):
        with self.changed:
            return len(self.lines)

    def texts(self, first=0):
        with self.changed:
            return [text for _, _, text in self.lines[first:]]

    def wait(self, what, wanted, first=0, timeout=PATIENCE):
        """The first value of wanted(line) that is not false, from line number `first` on. Nothing
        is waited for in a guest that has found something wrong."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                for _, _, text in self.lines[first:]:
                    found = wanted(text)
                    if found:
                        return found
                check(not self.complaints, f"the guest says: {self.complaints[:5]}")
                first = len(self.lines)
                left = deadline - time.monotonic()
                check(left > 0, f"the guest: no {what} within {timeout} s; its last words: "
                      f"{[text for _, _, text in self.lines[-3:]]}")
                self.changed.wait(left)

    def progress(self):
        """The numbers of its last line, or None."""
        for text in reversed(self.texts()):
            if found := PROGRESS.match(text):
                return {name: int(value) for name, value in found.groupdict().items()}
        return None

    def wait_progress(self, what, enough, timeout=PATIENCE):
        """For a line whose numbers are enough; them."""
        def wanted(text):
            found = PROGRESS.match(text)
            numbers = found and {name: int(value) for name, value in found.groupdict().items()}
            return numbers if numbers and enough(numbers) else None
        return self.wait(what, wanted, self.count(), timeout)


class Peer:
    """What the guest's packets go to: it checks them, and sends them back turned over. Each one
    says how many pages the guest has checked, so this is also a record of the guest's speed and
    of when it did not run."""

    HEAD = struct.Struct("<QQQII")
    MAGIC = 0x74656b6361706370

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.seen = []  # (time, number, pages checked), as they came
        self.wrong = 0
        self.spoil = False  # the next answer
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            data, sender = self.socket.recvfrom(65536)
            if not data:
                return
            now = time.monotonic()
            magic, number, pages, adler, words = self.HEAD.unpack_from(data)
            content = data[self.HEAD.size:]
            if magic != self.MAGIC or len(content) != 8 * words or zlib.adler32(content) != adler:
                self.wrong += 1
            self.seen.append((now, number, pages))
            answer = bytearray(content.translate(TURNED_OVER))
            if self.spoil:
                self.spoil = False
                answer[len(answer) // 2] ^= 0x10
            self.socket.sendto(data[:self.HEAD.size] + answer, sender)

    def downtime(self, since, until):
        """The longest time in which no packet came, and when that was."""
        times = [when for when, _, _ in self.seen if since <= when <= until]
        check(len(times) > 1, "no packets at all")
        return max((after - before, before, after) for before, after in zip(times, times[1:]))

    def speed(self, since, until):
        """Pages a second that the guest checked."""
        seen = [(when, pages) for when, _, pages in self.seen if since <= when <= until]
        check(len(seen) > 1, "no packets at all")
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def close(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join(PATIENCE)
        self.socket.close()


class Guest:
    """The guest itself, apart from where it is: console, peer, disk, kernel and initramfs."""

    def __init__(self, directory):
        need_linux_guest()
        self.directory = directory
        self.console, self.peer = Console(), Peer()
        self.disk = directory / "disk.raw"
        with open(self.disk, "wb") as f:
            f.truncate(DISK_MIB << 20)
        self.kernel = kernel_folder()
        self.initramfs = directory / "initramfs.cpio"
        subprocess.run([HERE / "linux_guest/make_initramfs.sh", self.kernel, PROGRAM,
                        self.initramfs], check=True)

    def disk_options(self):
        # Both hosts have it open while the guest moves.
        return ["-drive", f"file={self.disk},format=raw,if=none,id=disk,file.locking=off",
                "-device", "virtio-blk-pci,drive=disk"]

    def options(self, machine, backend):
        return ["-M", f"{machine},memory-backend=ram", "-accel", "tcg,thread=multi",
                "-cpu", "max,la57=off,-cx16", "-smp", CPUS, "-m", MEMORY_MIB,
                "-object", f"{backend},share=on,id=ram,size={MEMORY_MIB}M",
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-kernel", self.kernel / "bzImage", "-initrd", self.initramfs,
                "-append", f"{ON_THE_COMMAND_LINE} check_memory={CHECKED_MIB} "
                f"check_port={self.peer.port}",
                "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]

    def wait_booted(self):
        self.console.wait("ready", lambda text: text == "ready", timeout=BOOT_PATIENCE)

    def wait_walked(self, passes=1, timeout=PATIENCE):
        """Until all its memory has been checked so many times from now on, and disk and network
        go on, too; the numbers."""
        first = self.console.wait_progress("line", lambda n: True)
        return self.console.wait_progress(f"{passes} passes", lambda n: (
            n["passes"] > first["passes"] + passes and n["blocks"] > first["blocks"] and
            n["packets"] > first["packets"]), timeout)

    def check_right(self):
        """Nothing has ever been wrong; the numbers of its last line."""
        complaints = self.console.complaints
        check(not complaints, f"the guest says: {complaints[:5]}")
        check(not self.peer.wrong, f"{self.peer.wrong} wrong packets from the guest")
        return self.console.progress()

    def spoil_disk(self):
        """One bit in each of its blocks, from outside."""
        with open(self.disk, "r+b") as f:
            for at in range(12345, DISK_MIB << 20, 65536):
                f.seek(at)
                byte = f.read(1)[0]
                f.seek(at)
                f.write(bytes([byte ^ 4]))

    def close(self):
        self.peer.close()


def memory_file(pid):
    """The memfd of a QEMU's memory, as a path."""
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        if os.readlink(f"{folder}/{fd}").startswith("/memfd:memory-backend-memfd"):
            return f"{folder}/{fd}"
    raise AssertionError(f"process {pid} has no memfd")


class Machine:
    """One QEMU. Its guest boots here, or comes with incoming=True."""

    def __init__(self, guest, name, *options, incoming=False, machine="pc",
                 backend="memory-backend-memfd", program=QEMU, environment=None,
                 disk_options=None):
        self.guest, self.name = guest, name
        # For the test itself, and for whoever drives a migration: a monitor has one client.
        self.qmp, self.tool_qmp = (guest.directory / f"{name}.{n}" for n in ("qmp", "tool-qmp"))
        serial, self.log = guest.directory / f"{name}.serial", guest.directory / f"{name}.log"
        argv = [program, *guest.options(machine, backend), *options,
                *(disk_options or guest.disk_options()),
                "-chardev", f"socket,id=serial,path={serial},server=on,wait=on",
                "-serial", "chardev:serial",
                "-qmp", f"unix:{self.qmp},server=on,wait=off",
                "-qmp", f"unix:{self.tool_qmp},server=on,wait=off",
                *(["-incoming", "defer"] if incoming else [])]
        with open(self.log, "wb") as log:
            # pylint: disable=consider-using-with # ended by close()
            self.popen = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=log,
                                          env={**os.environ, **(environment or {})})
        self.serial = self.monitor = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        try:
            self.serial = connect(serial, self.popen, name)
            self.serial.settimeout(None)
            self.reader.start()
            self.monitor = Monitor(self.qmp, self.popen, name)
        except (AssertionError, OSError) as e:
            self.close()
            raise AssertionError(f"{e}: {self.log_text()[-2000:]}") from None

    def _read(self):
        try:
            while data := self.serial.recv(65536):
                self.guest.console.feed(self.name, data)
        except OSError:
            pass

    def say(self, command):
        self.serial.sendall(f"{command}\n".encode())

    def log_text(self):
        return self.log.read_text(errors="replace")

    def mark(self):
        """The guest counts touches from now on."""
        first = self.guest.console.count()
        self.say("mark")
        self.guest.console.wait("mark", lambda text: text == "marked", first)

    def report(self):
        """What the touches since the mark were like."""
        first = self.guest.console.count()
        self.say("report")
        words = self.guest.console.wait("report", lambda text: text.startswith("report ") and
                                        text.split()[1:], first)
        return {name: float(value) for name, value in zip(words[::2], words[1::2])}

    def spoil_memory(self, n_pages=64):
        """One bit in some of the pages that the guest checks, from outside."""
        spoiled = 0
        with open(memory_file(self.popen.pid), "r+b", buffering=0) as f:
            for at in range(0, MEMORY_MIB << 20, 37 * 4096):
                words = struct.unpack("<512Q", os.pread(f.fileno(), 4096, at))
                steps = {(b - a) % 2**64 for a, b in zip(words, words[1:])}
                if steps == {WORD_STEP} and spoiled < n_pages:
                    os.pwrite(f.fileno(), struct.pack("<Q", words[300] ^ 0x100), at + 300 * 8)
                    spoiled += 1
        check(spoiled == n_pages, f"only {spoiled} pages to spoil")

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        if self.reader.ident:
            self.reader.join(PATIENCE)
        for one in (self.monitor, self.serial):
            if one:
                one.close()
