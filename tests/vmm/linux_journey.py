# SPDX-License-Identifier: Apache-2.0
"""A Linux guest that goes from host to host: its memory by us, the rest by QEMU.

A host is what a machine of its own would have: an agent and a daemon, with a
supervisor for the daemon, so that a crash is one. The guest boots once, on the
first host, and is moved from then on, each time into a QEMU that has just been
started. Nobody tells QEMU anything but libpostcopy-qemu.so in LD_PRELOAD.
"""
import contextlib
import pathlib
import shutil
import subprocess
import tempfile
import time

from back_end import BackEnd
from e2e import BUILD, DESTINATION_NAME, PATIENCE, SANITIZED, SOURCE_NAME, Skip, check, wait_until
from linux_bed import Guest, Machine
from qemu_bed import PRELOAD, downtime_ms
from supervisor import SupervisedBed

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
SLOW = "48M"  # a stream that leaves time for a crash in the middle


class PreloadedMachine(Machine):
    """A QEMU that knows nothing of us, but for the preload; with vhost_user another process has
    its disk, which knows as little."""

    def __init__(self, guest, name, vhost_user=False, back_end_options=(), **more):
        self.preload = guest.directory / f"{name}.preload"
        self.guest, self.name, self.back_end = guest, name, None
        if vhost_user:
            self.start_back_end()
            more["disk_options"] = self.back_end.options(*back_end_options)
        try:
            super().__init__(guest, name, environment={
                "LD_PRELOAD": str(PRELOAD), "POSTCOPY_QEMU_SOCKET": str(self.preload)}, **more)
        except BaseException:
            self.close_back_end()
            raise

    def start_back_end(self, preload=True):
        """The first one, or another in its place."""
        self.back_end = BackEnd(self.guest.directory, self.name, self.guest.disk, self.preload,
                                preload)

    def close_back_end(self):
        if self.back_end:
            self.back_end.close()

    def log_text(self):
        return super().log_text() + (self.back_end.log_text() if self.back_end else "")

    def close(self):
        super().close()
        self.close_back_end()


class Hop:
    """One migration, between two machines and two hosts (beds)."""

    def __init__(self, source, source_host, destination, destination_host):
        self.source, self.source_host = source, source_host
        self.destination, self.host = destination, destination_host
        self.migration = destination_host.migration()
        self.downtime_ms = None  # as the tool measured it

    def argv(self, *options):
        m = self.migration
        return [BUILD / "ctl/postcopyctl", "--socket", self.host.dir / "control.sock",
                "qemu-migrate", m.id, "--token-file", m.token,
                "--source", self.source_host.source_address, "--peer", SOURCE_NAME,
                "--destination-peer", DESTINATION_NAME,
                "--source-qmp", self.source.tool_qmp, "--source-preload", self.source.preload,
                "--destination-qmp", self.destination.tool_qmp,
                "--destination-preload", self.destination.preload,
                "--export-socket", self.source_host.dir / "export.sock",
                "--attach-socket", self.host.dir / "attach.sock",
                "--uri", f"unix:{self.destination.guest.directory}/{m.id}.device-state",
                "--timeout", f"{PATIENCE}s", *options]

    def move(self, *options):
        """The guest runs on the other host when this returns."""
        r = subprocess.run([str(a) for a in self.argv(*options)], capture_output=True, text=True,
                           timeout=2 * PATIENCE, check=False)
        check(r.returncode == 0, f"qemu-migrate: exit status {r.returncode}: {r.stdout}{r.stderr}")
        self.downtime_ms = downtime_ms(r.stdout)

    def move_slowly(self):
        """The command, under way: QEMU's own stream takes seconds, in which the source runs."""
        self.source.monitor.do("migrate-set-parameters", **{"max-bandwidth": 65536})
        # pylint: disable-next=consider-using-with # every caller waits for it
        command = subprocess.Popen([str(a) for a in self.argv()], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.source.monitor.wait_status("active")
        return command

    def remaining(self):
        return self.migration.show()["memory_remaining"]

    def wait_remaining(self, most):
        return wait_until(f"less than {most} bytes remain", lambda: self.remaining() <= most)

    def kill_daemon(self):
        """In the middle of the memory; the next daemon goes on."""
        check(self.remaining() > 0, "all the memory was there before the daemon died")
        self.host.restart_service()

    def lift_limit(self):
        self.host.ctl("set-limits", self.migration.id, "--bandwidth", "0")

    def wait_completed(self):
        shown = self.migration.wait_state("completed", "failed", "cancelled")
        check(shown["state"] == "completed", f"state {shown['state']}: {shown}")
        check(shown["memory_remaining"] == 0, f"{shown['memory_remaining']} bytes remain")
        check(not shown["poisoned"], f"poisoned pages: {shown['poisoned'][:3]}")
        return shown


class Journey:
    """One guest, its hosts, and the machine that it runs in now."""

    def __init__(self, hosts=2, bed=SupervisedBed, settings=(FAST,), **machine):
        if SANITIZED:
            raise Skip("QEMU has no sanitizer to preload a library that needs one")
        check(PRELOAD.exists(), f"{PRELOAD} is not built")
        self.options = machine  # machine, backend, program: as Machine wants them
        with contextlib.ExitStack() as stack:
            self.hosts = [stack.enter_context(bed(*settings)) for _ in range(hosts)]
            self.directory = pathlib.Path(tempfile.mkdtemp(prefix="postcopy-vmm-"))
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.guest = Guest(self.directory)
            stack.callback(self.guest.close)
            self.hops, self.machines = 0, []
            stack.callback(self.end_machines)
            self.stack = stack.pop_all()

    def host(self, hops=0):
        """Where the guest is after so many more."""
        return self.hosts[(self.hops + hops) % len(self.hosts)]

    @property
    def machine(self):
        return self.machines[-1]

    def name(self, hops=0):
        """Of a machine: its host, and how often its guest has moved."""
        hops += self.hops
        return f"host-{'ABC'[hops % len(self.hosts)]}.{hops}"

    def start(self, hops=0, **more):
        options = {**self.options, **more}
        if "backend" in options:  # each machine's file is its own
            options["backend"] = options["backend"].format(machine=self.name(hops))
        return PreloadedMachine(self.guest, self.name(hops), **options)

    def boot(self):
        self.machines.append(self.start())
        self.guest.wait_booted()
        self.guest.wait_walked(2)

    def prepare(self):
        """A QEMU on the next host, which waits for the guest."""
        there = self.start(1, incoming=True)
        self.machines.append(there)
        return Hop(self.machines[-2], self.host(), there, self.host(1))

    def arrive(self):
        """The guest is on the next host with all its memory: what it left behind ends."""
        self.hops += 1
        self.machines.pop(-2).close()

    def hop(self, *options, kills=0):
        """To the next host; with kills the daemon there dies so often on the way, each time after
        an equal part of the memory. What show says at the end, and the hop."""
        hop = self.prepare()
        hop.move(*options, *(["--bandwidth", SLOW] if kills else []))
        left = hop.remaining()
        for i in range(kills):
            hop.wait_remaining(left * (kills - i) // (kills + 1))
            hop.kill_daemon()
        if kills:
            hop.lift_limit()
        shown = hop.wait_completed()
        self.arrive()
        return hop, shown

    def end_machines(self):
        for machine in self.machines:
            machine.close()

    def show_console(self, first=0, last=None):
        for _, name, text in self.guest.console.lines[first:last]:
            print(f"   {name} | {text}")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and kind is not Skip:
            self.show_console(max(0, self.guest.console.count() - 40))
            for machine in self.machines:
                print(f"--- {machine.name}\n{machine.log_text()[-2000:]}")
        return self.stack.__exit__(kind, value, trace)


def told(guest, hop, shown, started):
    """A line about a migration that has gone well."""
    gap, _, _ = guest.peer.downtime(started, time.monotonic())
    numbers = guest.check_right()
    print(f"   {hop.destination.name}: {hop.downtime_ms:.0f} ms stopped, {gap * 1e3:.0f} ms "
          f"without a packet, {shown['postcopy_requests']} pages asked for since the daemon there "
          f"began; so far {numbers['pages']} pages, {numbers['blocks']} blocks, "
          f"{numbers['packets']} packets right, 0 wrong, {numbers['lost']} packets lost",
          flush=True)


def check_notices(guest, machine):
    """On the last host: one bit turned over in a page, in a block and in a packet is seen by the
    guest. So all that was right so far has been looked at."""
    first = guest.console.count()
    guest.peer.spoil = True
    guest.spoil_disk()
    machine.spoil_memory()
    for what in ("packet", "disk block", "page"):
        wait_until(f"the guest notices a wrong {what}", lambda w=what: any(
            text.startswith(f"WRONG {w} ") for text in guest.console.texts(first)))
