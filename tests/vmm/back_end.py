# SPDX-License-Identifier: Apache-2.0
"""A vhost-user back end that others wrote: qemu-storage-daemon, unmodified, has the guest's disk
and maps the guest's memory, with libpostcopy-qemu.so in it or without.
"""
import os
import pathlib
import shutil
import subprocess
import sys

from qemu_bed import PRELOAD
from e2e import Skip, check, wait_until

PROGRAM = "qemu-storage-daemon"
HERE = pathlib.Path(__file__).resolve().parent


def need_back_end():
    if not shutil.which(PROGRAM):
        raise Skip(f"no {PROGRAM}: apt-get install --no-install-recommends qemu-system-common")


class BackEnd:
    """One process that exports a disk at a socket, for the QEMU with this command socket."""

    def __init__(self, directory, name, disk, qemu_socket, preload=True):
        need_back_end()
        self.name = name
        self.socket, self.log = (directory / f"{name}.{kind}" for kind in ("disk", "disk-log"))
        self.socket.unlink(missing_ok=True)
        environment = {"LD_PRELOAD": str(PRELOAD), "POSTCOPY_QEMU_SOCKET": str(qemu_socket)}
        # A second host has the same disk open while the guest moves.
        argv = [PROGRAM, "--blockdev", f"driver=file,node-name=disk,filename={disk},locking=off",
                "--export", f"type=vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues=2,"
                f"addr.type=unix,addr.path={self.socket}"]
        with open(self.log, "ab") as log:
            # pylint: disable=consider-using-with # ended by close()
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env={**os.environ, **(environment if preload else {})})
        wait_until(f"{name}: its socket", lambda: self.socket.exists() or self._check_lives())

    def _check_lives(self):
        check(self.popen.poll() is None, f"{self.name} has ended: {self.log_text()}")

    @property
    def pid(self):
        return self.popen.pid

    def options(self, *more):
        """QEMU's, for a disk that this process has."""
        return ["-chardev", ",".join(("socket", "id=disk", f"path={self.socket}", *more)),
                "-device", "vhost-user-blk-pci,chardev=disk"]

    def log_text(self):
        return self.log.read_text(errors="replace")

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


class OddBackEnd:
    """One that maps a file as the test says (odd_back_end.py), with the library in it."""

    def __init__(self, file, qemu_socket):
        # pylint: disable-next=consider-using-with # ended by close()
        self.popen = subprocess.Popen(
            [sys.executable, HERE / "odd_back_end.py", file], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "LD_PRELOAD": str(PRELOAD),
                 "POSTCOPY_QEMU_SOCKET": str(qemu_socket)})

    def ask(self, line):
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()
        return self.popen.stdout.readline().strip()

    def close(self):
        """What it said on standard error."""
        return self.popen.communicate()[1]
