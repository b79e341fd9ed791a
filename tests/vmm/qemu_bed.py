# SPDX-License-Identifier: Apache-2.0
"""The bed of the tests with an unmodified QEMU: libpostcopy-qemu.so in it, postcopyctl
qemu-migrate to drive it, and in it the bare guest, which checks its memory all the time.
"""
import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
import qmp
from e2e import BUILD, DESTINATION_NAME, PATIENCE, SANITIZED, SOURCE_NAME, Skip, check, wait_until
from supervisor import SupervisedBed

PROGRAM = "qemu-system-x86_64"
PRELOAD = BUILD / "client/qemu/libpostcopy-qemu.so"
GUEST = BUILD / "tests/vmm/bare_guest/bare-guest"
MIB = 1 << 20


def need_qemu():
    if not shutil.which(PROGRAM):
        raise Skip(f"{PROGRAM} is not installed: apt-get install qemu-system-x86 seabios")
    if SANITIZED:
        raise Skip("QEMU has no sanitizer to preload a library that needs one")
    for path in (PRELOAD, GUEST):
        check(path.exists(), f"{path} is not built")


def backend(name, kind, size, *more, path=None):
    """A memory backend of so many MiB, as options of QEMU."""
    if kind == "file":
        more = (f"mem-path={path}", *more)
    return ["-object", ",".join((f"memory-backend-{kind}", f"id={name}", "share=on",
                                 f"size={size}M", *more))]


def main_memory(kind, size, *more, path=None):
    """What the machine's -M has to say for it, and the options beside."""
    return ",memory-backend=ram", ["-m", str(size), *backend("ram", kind, size, *more, path=path)]


class Machine:
    """One QEMU process with the bare guest, its monitor and its serial port."""

    # pylint: disable-next=too-many-arguments,too-many-positional-arguments
    def __init__(self, bed, name, machine, options, incoming=False, environment=None, user=None):
        self.bed, self.name = bed, name
        self.paths = {kind: bed.dir / f"{name}.{kind}"
                      for kind in ("qmp", "tool", "serial", "memory", "log")}
        self.argv = [PROGRAM, "-M", machine, "-accel", "tcg", "-nodefaults", "-no-user-config",
                     "-display", "none", "-kernel", GUEST, *options,
                     "-chardev", f"socket,id=serial,path={self.paths['serial']},server=on,wait=off",
                     "-serial", "chardev:serial",
                     "-qmp", f"unix:{self.paths['qmp']},server=on,wait=off",
                     "-qmp", f"unix:{self.paths['tool']},server=on,wait=off"]
        if incoming:
            self.argv += ["-incoming", "defer"]
        self.monitor = self.serial = self.lines = None
        with open(self.paths["log"], "ab") as log:
            # pylint: disable=consider-using-with # ended by close()
            self.popen = subprocess.Popen(
                [str(a) for a in self.argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                user=user, env={**os.environ, "LD_PRELOAD": str(PRELOAD),
                     "POSTCOPY_QEMU_SOCKET": str(self.paths["memory"]), **(environment or {})})
        bed.machines.append(self)

    def log_text(self):
        return self.paths["log"].read_text(errors="replace")

    def connect(self):
        try:
            self.monitor = qmp.Monitor(self.paths["qmp"], self.popen, self.name)
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.log_text()}") from None
        self.serial = qmp.connect(self.paths["serial"], self.popen, self.name)
        self.lines = self.serial.makefile("r", encoding="ascii")
        return self

    def ask(self, text, n_lines):
        """The guest's answer to a command, as numbers."""
        self.serial.sendall(text.encode())
        lines = [self.lines.readline().strip() for _ in range(n_lines)]
        check(all(lines), f"{self.name}: the guest has gone: {self.log_text()}")
        return [int(line, 16) for line in lines]

    def begin(self, end):
        """The guest writes its memory up to so many MiB, and checks it from then on."""
        self.ask(f"b{end:x}\n", 1)

    def report(self):
        """Pages checked so far; a wrong word is the end of the test."""
        checked, wrong, first = self.ask("r", 3)
        check(wrong == 0, f"{self.name}: {wrong} wrong words in the guest's memory, the first at "
              f"{first:#x}")
        return checked

    def check_on(self, pages):
        """Until the guest has checked so many pages more."""
        until = self.report() + pages
        wait_until(f"{self.name}: {pages} pages more", lambda: self.report() >= until)

    def memory(self, line, timeout=PATIENCE):
        """libpostcopy-qemu.so's answer to one line."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(timeout)
            s.connect(str(self.paths["memory"]))
            s.sendall(line if isinstance(line, bytes) else line.encode() + b"\n")
            with s.makefile("r", encoding="utf-8") as lines:
                return qmp.json.loads(lines.readline())

    def status(self):
        return self.monitor.do("query-status")["status"]

    def ended(self):
        """Its exit status and what it said, when it has ended by itself."""
        return self.popen.wait(PATIENCE), self.log_text()

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for one in (self.lines, self.serial, self.monitor):
            if one:
                one.close()


class QemuBed(SupervisedBed):
    """Both services of a host, and QEMU machines beside them."""

    def __init__(self, daemon_settings=None, source_settings=None, supervised=()):
        need_qemu()
        self.machines = []
        super().__init__(daemon_settings, source_settings, supervised)

    def machine(self, name, machine, options, incoming=False, **more):
        return Machine(self, name, machine, options, incoming, **more).connect()

    def pair(self, machine, options, destination_options=None):
        """A source and a destination that waits for its guest."""
        return (self.machine("source", machine, options),
                self.machine("destination", machine, destination_options or options, True))

    def migrate_argv(self, source, destination, *options):
        state = self.dir / f"{source.name}-{destination.name}.state"
        return [str(a) for a in (
            BUILD / "ctl/postcopyctl", "--socket", self.dir / "control.sock", "qemu-migrate",
            "--source", self.source_address, "--peer", SOURCE_NAME,
            "--destination-peer", DESTINATION_NAME,
            "--source-qmp", source.paths["tool"], "--source-preload", source.paths["memory"],
            "--destination-qmp", destination.paths["tool"],
            "--destination-preload", destination.paths["memory"],
            "--uri", f"unix:{state}", "--attach-socket", self.dir / "attach.sock",
            "--export-socket", self.dir / "export.sock", "--timeout", f"{PATIENCE}s", *options)]

    def migrate(self, source, destination, *options, status=0):
        """What postcopyctl qemu-migrate said, on standard output or (with a status) error."""
        r = subprocess.run(self.migrate_argv(source, destination, *options), text=True,
                           capture_output=True, timeout=3 * PATIENCE, check=False)
        check(r.returncode == status, f"qemu-migrate: exit status {r.returncode}: {r.stderr}"
              f"{source.log_text()}{destination.log_text()}")
        return r.stderr if status else r.stdout

    def close(self, failed):
        with contextlib.ExitStack() as stack:
            stack.callback(super().close, failed)
            for machine in self.machines:
                machine.close()


def downtime_ms(output):
    found = re.search(r"^downtime ([0-9.]+) ms$", output, re.MULTILINE)
    check(found, f"no downtime in {output!r}")
    return float(found[1])
