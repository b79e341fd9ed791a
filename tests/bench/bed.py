# SPDX-License-Identifier: Apache-2.0
"""What the cases are made of: floors, beds with the real daemons, measured guests.

Everything starts on the CPUs, and in the network namespace, of the calling
thread: pinned() and in_netns() choose these for a block.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import queue
import re
import subprocess
import time
import uuid

from e2e import BUILD, DESTINATION_NAME, PATIENCE, SOURCE_NAME, Bed, Process, Skip, check

FLOOR = BUILD / "tests/bench/floor/bench-floor"
GUEST = BUILD / "tests/bench/guest/bench-guest"
MIB = 1 << 20
GIB = 1 << 30
# The stream is held off: a page a second.
HELD_OFF = 4096
ALL_CPUS = frozenset(os.sched_getaffinity(0))
FIRST_CPU = min(ALL_CPUS)
# The daemon's settings where everything is pinned to the first CPU.
ONE_CPU = {"lanes": {"urgent_cpus": FIRST_CPU, "bulk_cpus": FIRST_CPU}}
CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def pinned(*cpus):
    """What starts in this block stays on these CPUs; without any: wherever it likes."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _enter_netns(path):
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns", str(path))
    finally:
        os.close(fd)


@contextlib.contextmanager
def in_netns(path):
    if not path:
        yield
        return
    own = pathlib.Path(f"/proc/self/task/{ctypes.CDLL(None).gettid()}/ns/net")
    fd = os.open(own, os.O_RDONLY)
    try:
        _enter_netns(path)
        yield
    finally:
        _enter_netns(f"/proc/self/fd/{fd}")
        os.close(fd)


def floor(command, **options):
    """Run a floor to its end: what it measured."""
    argv = [str(FLOOR), command]
    for name, value in options.items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    r = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    check(r.returncode == 0, f"{' '.join(argv)}: {r.returncode}: {r.stderr}")
    return json.loads(r.stdout)


@contextlib.contextmanager
def spinners():
    """No CPU halts in this block: a wake-up never waits for the hypervisor."""
    running = []
    try:
        for cpu in sorted(ALL_CPUS):
            # pylint: disable=consider-using-with # ended below
            running.append(subprocess.Popen([FLOOR, "spin", "--cpu", str(cpu)]))
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def available_bytes():
    with open("/proc/meminfo", encoding="ascii") as f:
        return int(re.search(r"MemAvailable:\s+(\d+)", f.read()).group(1)) * 1024


@contextlib.contextmanager
def warm_memory(size):
    """In this block so much of the free memory costs its first touch no extra; see floor/warm.c."""
    with subprocess.Popen([FLOOR, "warm", "--bytes", str(size)], stdout=subprocess.PIPE,
                          text=True) as process:
        try:
            check(process.stdout.readline() == "{}\n", "bench-floor warm")
            yield
        finally:
            process.kill()


def cpu_seconds(pid):
    """What a process has used, with its threads that have ended."""
    return time.clock_gettime((~pid << 3) | 2)


class Peer(Process):
    """A process each of whose answers is taken once, in whatever order they come."""

    def __init__(self, *args):
        super().__init__(*args)
        self.pending = []

    def next(self, name, text="", timeout=PATIENCE):
        """Take the value of the first event of that name that starts with text."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.pending:
                if event[0] == name and event[1].startswith(text):
                    self.pending.remove(event)
                    return event[1]
            self.pending.append(self._wait(f"{name} {text}", deadline))

    def _wait(self, what, deadline):
        try:
            event = self._next(max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"{self.name}: no {what} in time: "
                                 f"{self.log_text()[-1000:]}") from None
        if event is None:
            status = self.popen.wait()
            if status == 77:
                raise Skip(self.log_text().strip())
            raise AssertionError(f"{self.name} ended with {status} before {what}: "
                                 f"{self.log_text()[-1000:]}")
        check(event[0] != "state" or not event[1].startswith(("failed", "cancelled",
                                                              "postcopy-paused")),
              f"{self.name}: {event[1]}")
        return event


class BenchBed(Bed):
    """Both daemons with the settings that a case wants, without debug logs."""

    def __init__(self, daemon=None, source=None, daemon_netns=None, source_netns=None,
                 source_host="127.0.0.1"):
        self.daemon_netns, self.source_netns = daemon_netns, source_netns
        self.source_host = source_host
        quiet = {"log": {"level": "warning", "target": "stderr"}}
        super().__init__({**quiet, **(daemon or {})}, {**quiet, **(source or {})})

    def start_agent(self):
        self.source_address = f"{self.source_host}:{self.source_address.rsplit(':', 1)[1]}"
        with in_netns(self.source_netns):
            return super().start_agent()

    def start_daemon(self):
        with in_netns(self.daemon_netns):
            return super().start_daemon()

    def guest(self, **options):
        return Guest(self, **options)

    def held_off(self, touch_cpus=(), **options):
        """A guest that waits for its faults alone: the stream brings a page a second."""
        guest = Guest(self, **options)
        guest.begin(bandwidth=HELD_OFF, cpus=touch_cpus)
        return guest

    def stream_seconds(self, **options):
        """Attach to completion of a guest that touches nothing."""
        guest = Guest(self, **options)
        guest.begin()
        return guest.finish()

    def print_logs(self):
        for log in sorted(self.dir.glob("*.log")):
            if text := log.read_text(errors="replace").strip():
                print(f"--- {log.name}\n{text[-1500:]}")


class Guest:
    """A migration with its guests on both sides."""

    count = 0

    def __init__(self, bed, size=512 * MIB, memory="anon", source_memory=None, regions=1, lanes=1,
                 zero_percent=0, alias=False, split=False,
                 hot_percent=100):
        Guest.count += 1
        self.bed, self.size = bed, size
        self.id = str(uuid.uuid4())
        self.token = bed.token_file()
        self.active_ns = 0
        self.destination = None
        self.common = ["--size", size, "--regions", regions if split else max(regions, lanes),
                       "--zero-percent", zero_percent]
        self.memory = memory
        self.options = ["--uffds", lanes, "--hot-percent", hot_percent]
        self.options += ["--split"] if split else []
        source = "memfd" if alias else source_memory or memory.removesuffix("-minor")
        self.source = self._start("source", "export.sock", source,
                                  ["--peer-identity", DESTINATION_NAME] +
                                  (["--alias"] if alias else []))

    def _start(self, role, sock, memory, options):
        return Peer(self.bed, f"{role}-{Guest.count}",
                    [GUEST, role, "--id", self.id, "--token-file", self.token, "--socket",
                     self.bed.dir / sock, "--memory", memory, *self.common, *options])

    def prepare(self, bandwidth=0, cpus=()):
        """All but the freeze, which starts the stream."""
        self.source.next("exported")
        limit = ["--bandwidth", bandwidth] if bandwidth else []
        self.bed.ctl("start", self.id, "--source", self.bed.source_address, "--peer", SOURCE_NAME,
                     "--token-file", self.token, *limit)
        with pinned(*cpus):
            self.destination = self._start("destination", "attach.sock", self.memory,
                                           self.options)
        self.destination.next("attached")

    def freeze(self):
        self.source.say("freeze")

    def wait_active(self):
        self.active_ns = int(self.destination.next("state", "postcopy-active").split()[1])

    def begin(self, bandwidth=0, cpus=()):
        self.prepare(bandwidth, cpus)
        self.freeze()
        self.wait_active()

    def start_touching(self, threads=1, samples=1000000, pace_us=0, wait="sleep"):
        """Until so many samples a thread, or the end of the migration."""
        self.destination.say(f"touch {threads} {samples} {pace_us} {wait}")

    def touched(self, at_least=1):
        """What start_touching() measured, when it has ended."""
        found = json.loads(self.destination.next("touched"))
        check(found["wrong"] == 0, f"{found['wrong']} pages with wrong bytes")
        check(found["n"] >= at_least, f"only {found['n']} of {at_least} faults")
        return found

    def touch(self, samples, threads=1, pace_us=0, warmup=200):
        if warmup:
            self.start_touching(threads, max(1, warmup // threads), pace_us)
            self.touched()
        self.start_touching(threads, samples, pace_us)
        return self.touched(samples * threads)

    def lift_limit(self):
        self.bed.ctl("set-limits", self.id, "--bandwidth", 0)

    def finish(self, timeout=600):
        """Wait for completion: seconds since the stream began."""
        value = self.destination.next("state", "completed", timeout)
        return (int(value.split()[1]) - self.active_ns) / 1e9

    def verify(self):
        self.destination.say("verify")
        wrong = int(self.destination.next("wrong"))
        check(wrong == 0, f"{wrong} pages with wrong bytes")

    def show(self):
        return json.loads(self.bed.ctl("show", self.id, "--json"))

    def end(self):
        """Give the memory back before the bed ends."""
        for process in (self.destination, self.source):
            if process:
                process.kill()
