# SPDX-License-Identifier: Apache-2.0
"""What systemd does for a service that it restarts, without systemd: sockets that are
there before the service, its notifications (sd_notify(3)), and the FD store.

A bed of tests whose services run like this is a SupervisedBed: kill_service() and
restart_service() are what a crash is.
"""
import array
import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import threading
import time

from e2e import PATIENCE, Bed, Process, check, wait_until

SYS_KCMP = 312  # x86-64; elsewhere descriptors are never found to be the same
KCMP_FILE = 0
FIRST_COPY = 500  # of the descriptors that are moved to 3 and on; more than any test keeps
SOCKETS = {"postcopyd": {"control": "control.sock", "attach": "attach.sock",
                         "status": "status.sock"},
           "postcopy-sourced": {"control": "source.sock", "export": "export.sock"}}


def same_open_file(a, b):
    libc = ctypes.CDLL(None, use_errno=True)
    return os.uname().machine == "x86_64" and \
        libc.syscall(SYS_KCMP, os.getpid(), os.getpid(), KCMP_FILE, a, b) == 0


class Supervisor:
    """One service: what it notified, what it keeps here, its sockets."""

    def __init__(self, directory, name, store_max=2560):
        self.name = name
        self.store_max = store_max
        self.store = []  # (name, descriptor), the newest first, as systemd passes them
        self.told = []   # (time, {key: value})
        self.on_kept = None  # called with the name of each descriptor that comes
        self.ready = threading.Event()
        self.lock = threading.Lock()
        self.path = directory / f"{name}.supervisor"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.path))
        self.listeners = []
        for key, file in SOCKETS[name].items():
            s = socket.socket(socket.AF_UNIX)
            s.bind(str(directory / file))
            s.listen()
            self.listeners.append((key, s))
        self.thread = threading.Thread(target=self._receive, daemon=True)
        self.thread.start()

    def _receive(self):
        while True:
            fds = array.array("i")
            try:
                data, ancillary, _, _ = self.notify.recvmsg(65536, socket.CMSG_SPACE(64 * 4))
            except OSError:
                return
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(content[:len(content) // 4 * 4])
            if not data:
                return
            with self.lock:
                self._take(dict(line.split("=", 1) for line in data.decode().splitlines()
                                if "=" in line), list(fds))

    def _take(self, message, fds):
        self.told.append((time.monotonic(), message))
        if message.get("FDSTORE") == "1":
            fds = [fd for fd in fds if not self._keep(message.get("FDNAME", "stored"), fd)]
        if message.get("FDSTOREREMOVE") == "1":
            for entry in [e for e in self.store if e[0] == message["FDNAME"]]:
                self.store.remove(entry)
                fds.append(entry[1])
        if message.get("READY") == "1":
            self.ready.set()
        for fd in fds:  # that of a BARRIER=1 tells by its end that we came so far
            os.close(fd)

    def _keep(self, name, fd):
        """False: too many, or the same one again. Nobody is told, as with systemd."""
        if len(self.store) >= self.store_max:
            return False
        if any(same_open_file(fd, other) for _, other in self.store):
            return False
        self.store.insert(0, (name, fd))
        if self.on_kept:
            self.on_kept(name)
        return True

    def names(self):
        with self.lock:
            return [name for name, _ in self.store]

    def replace(self, name, fd):
        """Something else stands where the service had left its own (fd is ours)."""
        with self.lock:
            for i, (kept, old) in enumerate(self.store):
                if kept == name:
                    os.close(old)
                    self.store[i] = (name, fd)
                    return
        raise KeyError(name)

    def descriptor(self, name):
        with self.lock:
            return dict(self.store)[name]

    def last(self, key):
        """The newest value of what it notified under this key."""
        with self.lock:
            return next((m[key] for _, m in reversed(self.told) if key in m), None)

    def settle(self):
        """Returns when all that was sent before has been dealt with, as systemd does before it
        starts a service again: what a dead one has given away is there then."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            mark = str(random.random())
            s.sendto(f"MARK={mark}".encode(), str(self.path))
        wait_until("settled", lambda: self.last("MARK") == mark)

    def spawn(self, argv, log):
        """The process, with its descriptors from 3 on. Bash moves them there."""
        self.settle()
        with self.lock:
            passed = [(key, s.fileno()) for key, s in self.listeners] + self.store
            copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, FIRST_COPY) for _, fd in passed]
        self.ready.clear()
        moves = " ".join(f"{3 + i}<&{fd} {fd}<&-" for i, fd in enumerate(copies))
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.path),
                       "FDSTORE": str(self.store_max), "LISTEN_FDS": str(len(passed)),
                       "LISTEN_FDNAMES": ":".join(name for name, _ in passed)}
        try:
            return subprocess.Popen(
                ["bash", "-c", f'LISTEN_PID=$$ exec "$@" {moves}', self.name,
                 *(str(a) for a in argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, env=environment, pass_fds=copies)
        finally:
            for fd in copies:
                os.close(fd)

    def close(self):
        self.notify.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.notify.close()
        for _, s in self.listeners:
            s.close()
        for _, fd in self.store:
            os.close(fd)
        self.store = []


class SupervisedProcess(Process):
    """As any process of a bed, but started by a supervisor."""

    def __init__(self, bed, supervisor, argv):  # pylint: disable=super-init-not-called
        self.name = supervisor.name
        self.log = bed.dir / f"{self.name}.log"
        with open(self.log, "ab") as log:
            self.popen = supervisor.spawn(argv, log)
        self.collect(bed)


class SupervisedBed(Bed):
    """Both services, those named in `supervised` with a supervisor each."""

    def __init__(self, daemon_settings=None, source_settings=None, supervised=("postcopyd",),
                 store_max=2560):
        self.supervisors, self.supervised, self.store_max = {}, supervised, store_max
        super().__init__(daemon_settings, source_settings)

    def _service(self, name, program, config):
        if name not in self.supervised:
            return super()._service(name, program, config)
        if name not in self.supervisors:
            self.supervisors[name] = Supervisor(self.dir, name, self.store_max)
        supervisor = self.supervisors[name]
        process = SupervisedProcess(self, supervisor, self.command(name, program, config))
        wait_until(f"{name} is ready", lambda: supervisor.ready.wait(0.001) or
                   process.popen.poll() is not None)
        check(process.popen.poll() is None, f"{name} ended with {process.popen.poll()}: "
              f"{process.log_text()[-3000:]}")
        return process

    def kill_service(self, name="postcopyd", sig=signal.SIGKILL):
        """It is gone when this returns; its sockets and what it kept are not."""
        process = self.daemon if name == "postcopyd" else self.agent
        process.kill(sig)

    def start_service(self, name="postcopyd"):
        if name == "postcopyd":
            self.daemon = self.start_daemon()
        else:
            self.agent = self.start_agent()

    def restart_service(self, name="postcopyd", sig=signal.SIGKILL):
        self.kill_service(name, sig)
        self.start_service(name)

    def stored(self, name="postcopyd"):
        return self.supervisors[name].names()

    def close(self, failed):
        try:
            super().close(failed)
        finally:
            for supervisor in self.supervisors.values():
                supervisor.close()

