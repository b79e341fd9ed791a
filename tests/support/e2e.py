# SPDX-License-Identifier: Apache-2.0
"""The bed of the end-to-end tests: real daemons, real guests, a PKI made on the spot.

A test file calls main(function, ...). Everything that a Bed starts it ends by
process id; its directory goes with it. Logs are printed when a test fails.
"""
import atexit
import fcntl
import json
import os
import pathlib
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("POSTCOPY_BUILD", ROOT / "build/release"))
SANITIZED = bool(os.environ.get("SANITIZE"))
# Everything is several times slower under a sanitizer; nobody waits for a deadline that is met.
PATIENCE = int(os.environ.get("POSTCOPY_PATIENCE", 90 if SANITIZED else 45))
STOP_PATIENCE = 2
# Cut larger regions to so many MiB, where a guest is slow or has little memory.
LARGEST = int(os.environ.get("POSTCOPY_LARGEST", 0))

SOURCE_NAME = "source.postcopy.example"
DESTINATION_NAME = "destination.postcopy.example"


class Skip(Exception):
    """This machine or user cannot run the test."""


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def cut_region(region):
    name, kind, size = region.split(":")
    if LARGEST and size.endswith("M") and int(size[:-1]) > LARGEST:
        size = f"{LARGEST}M"
    return f"{name}:{kind}:{size}"


def wait_until(what, function, timeout=PATIENCE):
    """Poll for what has no event to wait for; the value that is not false."""
    deadline = time.monotonic() + timeout
    while True:
        value = function()
        if value:
            return value
        check(time.monotonic() < deadline, f"{what}: not within {timeout} s")
        time.sleep(0.02)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A program whose lines are collected; its standard error goes to a log."""

    def __init__(self, bed, name, argv, environment=None):
        self.name = name
        self.log = bed.dir / f"{name}.log"
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=log,
                                          env={**os.environ, **(environment or {})})
        self.collect(bed)

    def collect(self, bed):
        """Read what it says from now on; it ends with the bed."""
        self.events = []
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        bed.processes.append(self)

    def _read(self):
        for line in self.popen.stdout:
            self.lines.put(line.decode(errors="replace").rstrip("\n"))
        self.lines.put(None)

    def _next(self, timeout):
        line = self.lines.get(timeout=timeout)
        if line is None:
            self.lines.put(None)
            return None
        name, _, value = line.partition(" ")
        self.events.append((name, value))
        return name, value

    def log_text(self):
        return self.log.read_text(errors="replace")

    def say(self, word):
        self.popen.stdin.write(f"{word}\n".encode())
        self.popen.stdin.flush()

    def kill(self, sig=signal.SIGKILL):
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
        return self.popen.wait(PATIENCE)

    def stop(self):
        """SIGTERM, and another one for a daemon that waits for guests that are gone."""
        try:
            if self.popen.poll() is None:
                self.popen.send_signal(signal.SIGTERM)
            return self.popen.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            return self.kill(signal.SIGTERM)

    def all(self, name):
        return [value for event, value in self.events if event == name]

    def value(self, name):
        values = self.all(name)
        check(values, f"{self.name} never said {name!r}")
        return int(values[-1].split()[0], 0)

    def wait_event(self, name, text="", timeout=PATIENCE):
        """The value of the next event of that name whose value starts with text."""
        for event, value in self.events:
            if event == name and value.startswith(text):
                return value
        deadline = time.monotonic() + timeout
        while True:
            try:
                event = self._next(max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.name}: no {name} {text} within {timeout} s") from None
            if event is None:
                raise AssertionError(f"{self.name} ended with {self.popen.wait()} before "
                                     f"{name} {text}: {self.log_text()[-2000:]}")
            if event[0] == name and event[1].startswith(text):
                return event[1]

    def next_event(self, name, timeout):
        """The value of an event of that name that has not been seen yet; TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                event = self._next(max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                event = None
            if event is None:
                raise TimeoutError(f"{self.name}: no {name} within {timeout} s")
            if event[0] == name:
                return event[1]

    def finish(self, status=0, timeout=None):
        """Wait for the end and check the exit status."""
        try:
            got = self.popen.wait(timeout or PATIENCE * 2)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end") from None
        self.reader.join(PATIENCE)
        while self._next(PATIENCE):
            pass
        if got == 77 and status != 77:
            raise Skip(self.log_text().strip().splitlines()[-1])
        check(got == status, f"{self.name}: exit status {got}, expected {status}; events: "
              f"{[e for e in self.events if e[0] != 'lost-page'][-30:]}; "
              f"stderr: {self.log_text()[-2000:]}")
        return self


class Migration:
    """One migration: its id, secret, regions, and the guests on both sides."""

    def __init__(self, bed, regions, poison=0, late=0, seed=None, name="m", packed=False):
        self.bed = bed
        self.id = str(uuid.uuid4())
        self.name = f"{name}{len(bed.migrations)}"
        self.token = bed.token_file()
        self.common = ["--poison", poison, "--late", late,
                       "--seed", seed if seed is not None else secrets.randbits(32),
                       "--timeout", PATIENCE * 8]  # should this program not come to ending it
        if packed:  # as in a snapshot's file
            self.common.append("--packed")
        self.regions = regions
        bed.migrations.append(self)

    def _guest(self, role, name, sock, regions, options, token):
        argv = [BUILD / "tests/support/testguest", role, "--id", self.id,
                "--token-file", token or self.token, "--socket", sock]
        for region in regions or self.regions:
            argv += ["--region", cut_region(region)]
        return Process(self.bed, f"{self.name}-{name}", argv + self.common + list(options))

    def source(self, *options, regions=None, freeze=True, peer=DESTINATION_NAME, token=None):
        """The guest on the source, exported (and frozen)."""
        guest = self._guest("source", "source", self.bed.dir / "export.sock", regions,
                            ["--peer-identity", peer, *options], token)
        guest.wait_event("exported")
        if freeze:
            guest.say("freeze")
            guest.wait_event("frozen")
        return guest

    def destination(self, *options, regions=None, token=None, name="destination"):
        return self._guest("destination", name, self.bed.dir / "attach.sock", regions, options,
                           token)

    def firecracker(self, path, version, *options):
        """The destination's guest as Firecracker v1.VERSION, which calls at this socket."""
        return self._guest("destination", "firecracker", path, None,
                           ["--firecracker", version, *options], None)

    def start(self, *options, source=None, peer=SOURCE_NAME, status=0, token=None):
        return self.bed.ctl("start", self.id, "--source", source or self.bed.source_address,
                            "--peer", peer, "--token-file", token or self.token, *options,
                            status=status)

    def show(self, on_source=False):
        return json.loads(self.bed.ctl("show", self.id, "--json", on_source=on_source))

    def wait_state(self, *states, on_source=False):
        return wait_until(f"{self.name} in {states}", lambda: (
            lambda m: m if m["state"] in states else None)(self.show(on_source)))

    def check_ledger(self, destination):
        """The guest lost exactly the pages that the daemon's ledger names."""
        shown = self.show()
        ledger = set()
        for p in shown["poisoned"]:
            ledger |= {(p["region"], p["offset"] + i) for i in range(0, p["lost"], 4096)}
        lost = {(r, int(o)) for r, o in (v.split() for v in destination.all("lost-page"))}
        check(lost == ledger, f"lost in the guest {sorted(lost - ledger)[:5]}, "
              f"in the ledger only {sorted(ledger - lost)[:5]}")
        check(shown["lost_bytes"] == 4096 * len(lost), f"lost_bytes is {shown['lost_bytes']}")
        return shown

    def check_ledger_counts(self, destination):
        """For more lost pages than show lists: the sums agree."""
        shown = self.show()
        lost = destination.value("lost")
        check(shown["lost_bytes"] == 4096 * lost, f"{lost} lost, lost_bytes {shown['lost_bytes']}")
        return shown

    def run(self, source_options=(), destination_options=(), start_options=(), late=False):
        """From export to completion with every promise checked; what show says at the end."""
        source = self.source(*source_options)
        self.start(*start_options)
        destination = self.destination(*destination_options)
        if late:
            destination.wait_event("touching")
            source.say("late")
        destination.finish()
        source.finish()
        shown = self.check_ledger(destination)
        check(shown["state"] == "completed", f"state {shown['state']}")
        check(shown["memory_remaining"] == 0, f"remaining {shown['memory_remaining']}")
        check(destination.value("off") == 0, "pages are off")
        return shown, source, destination


class Proxy:
    """A TCP relay in front of the source agent whose connections can be cut and held."""

    def __init__(self, bed, target=None):
        host, port = (target or bed.source_address).rsplit(":", 1)
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.pairs = []
        self.accepted = 0
        self.refusing = False
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()
        bed.proxies.append(self)

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                if self.refusing:
                    near.close()
                    continue
                far = socket.create_connection(self.target)
            except OSError:
                if self.listener.fileno() < 0:
                    return
                near.close()
                continue
            with self.lock:
                self.pairs.append((near, far))
                self.accepted += 1
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(a, b), daemon=True).start()

    @staticmethod
    def _relay(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """End all connections, as a link that breaks."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        return len(pairs)

    def close(self):
        self.refusing = True
        self.listener.close()
        self.cut()


class Bed:
    """A source agent and a daemon with private sockets, ports and keys."""

    usual_pki = None

    def __init__(self, daemon_settings=None, source_settings=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="postcopy-e2e-"))
        self.processes, self.migrations, self.proxies = [], [], []
        self.pki = self.dir / "pki"
        shutil.copytree(self._usual_pki(), self.pki)
        self.source_address = f"127.0.0.1:{free_port()}"
        self.daemon_settings = daemon_settings or {}
        self.source_settings = source_settings or {}
        self.agent = self.start_agent()
        self.daemon = self.start_daemon()

    @classmethod
    def _usual_pki(cls):
        """Made once a process; each bed has a copy that it may change."""
        if not cls.usual_pki:
            cls.usual_pki = pathlib.Path(tempfile.mkdtemp(prefix="postcopy-e2e-pki-"))
            atexit.register(shutil.rmtree, cls.usual_pki, ignore_errors=True)
            cls.make_pki(cls.usual_pki)
        return cls.usual_pki

    @staticmethod
    def make_pki(directory, *options):
        subprocess.run(["sh", ROOT / "conf/make-pki.sh", *options, directory], check=True,
                       stdout=subprocess.DEVNULL)

    def token_file(self):
        path = self.dir / f"token-{secrets.token_hex(4)}"
        path.write_text(secrets.token_hex(32) + "\n")
        path.chmod(0o600)
        return path

    def _config(self, name, settings):
        path = self.dir / f"{name}.conf"
        with open(path, "w", encoding="ascii") as f:
            for section, keys in settings.items():
                f.write(f"[{section}]\n")
                for key, value in keys.items():
                    f.write(f"{key} = {value}\n")
        return path

    @staticmethod
    def _merge(settings, more):
        for section, keys in more.items():
            settings.setdefault(section, {}).update(keys)
        return settings

    def _tls(self, name):
        return {"certificate": self.pki / f"{name}.pem", "key": self.pki / f"{name}.key",
                "ca": self.pki / "ca.pem"}

    def start_agent(self):
        settings = {"tls": self._tls("source"),
                    "listen": {"address": self.source_address},
                    "sockets": {"control": self.dir / "source.sock",
                                "export": self.dir / "export.sock"},
                    "log": {"level": "debug", "target": "stderr"}}
        config = self._config("postcopy-sourced", self._merge(settings, self.source_settings))
        return self._service("postcopy-sourced", BUILD / "source/postcopy-sourced", config)

    def start_daemon(self):
        settings = {"tls": self._tls("destination"),
                    "sockets": {"control": self.dir / "control.sock",
                                "attach": self.dir / "attach.sock",
                                "status": self.dir / "status.sock"},
                    "log": {"level": "debug", "target": "stderr"}}
        config = self._config("postcopyd", self._merge(settings, self.daemon_settings))
        return self._service("postcopyd", BUILD / "daemon/postcopyd", config)

    def command(self, name, program, config):  # pylint: disable=unused-argument
        """How a service is started; a bed that starts it otherwise has its own."""
        return [program, "--config", config]

    def _service(self, name, program, config):
        """Start it as systemd does, and wait until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            path = self.dir / f"{name}.notify"
            path.unlink(missing_ok=True)
            notify.bind(str(path))
            notify.settimeout(0.1)
            process = Process(self, name, self.command(name, program, config),
                              {"NOTIFY_SOCKET": str(path), "FDSTORE": "0"})
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    if b"READY=1" in notify.recv(4096):
                        return process
                except TimeoutError:
                    check(process.popen.poll() is None,
                          f"{name} ended with {process.popen.poll()}: {process.log_text()}")
                    check(time.monotonic() < deadline, f"{name}: not ready in {PATIENCE} s")

    def ctl(self, *args, on_source=False, status=0):
        """Run postcopyctl; its output, or what it complained about when status is not 0.
        With status None: None on failure."""
        sock = self.dir / ("source.sock" if on_source else "control.sock")
        r = subprocess.run([str(a) for a in (BUILD / "ctl/postcopyctl", "--socket", sock, *args)],
                           capture_output=True, text=True, timeout=PATIENCE, check=False)
        if status is None:
            return r.stdout if r.returncode == 0 else None
        check(r.returncode == status, f"postcopyctl {args[0]}: exit status {r.returncode}, "
              f"expected {status}: {r.stderr}")
        return r.stdout if status == 0 else r.stderr

    def migration(self, *regions, **options):
        return Migration(self, list(regions), **options)

    def http(self, path):
        """GET from the daemon's status socket: status code, body."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(self.dir / "status.sock"))
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while part := s.recv(65536):
                data += part
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def close(self, failed):
        try:
            for process in self.processes:
                if process not in (self.agent, self.daemon):
                    process.kill()
            for process in (self.daemon, self.agent):
                alive = process.popen.poll() is None
                status = process.stop()
                if alive and status != 0 and not failed:
                    failed = True
                    raise AssertionError(f"{process.name}: exit status {status} after SIGTERM")
            for process in self.processes:
                if not failed and "Sanitizer" in process.log_text():
                    failed = True
                    raise AssertionError(f"{process.name}: a sanitizer complained")
        finally:
            for proxy in self.proxies:
                proxy.close()
            if failed:
                self.print_logs()
            shutil.rmtree(self.dir, ignore_errors=True)

    def print_logs(self):
        for log in sorted(self.dir.glob("*.log")):
            # Polling by this bed would push out what matters.
            lines = [line for line in log.read_text(errors="replace").splitlines()
                     if " REQUEST=Get " not in line and " REQUEST=List " not in line]
            print(f"--- {log.name} ({len(lines)} lines)")
            # The last lines tell how it ended; a sanitizer's report may stand before them.
            print("\n".join(lines[-60:]))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close(kind is not None and kind is not Skip)


def need_userfaultfd():
    try:
        os.close(os.open("/dev/userfaultfd", os.O_RDWR))
    except OSError as e:
        path = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")
        if os.geteuid() != 0 and (not path.exists() or path.read_text().strip() != "1"):
            raise Skip(f"/dev/userfaultfd: {e.strerror}; see postcopyctl probe") from None


class HugePages:
    """So many free 2 MiB pages while the block runs. The pool is the host's: one test at a time
    has pages of it, or they take each other's; the tests in C hold the same lock."""

    PATH = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")

    def __init__(self, count):
        self.count = count
        self.before = self.lock = None

    def __enter__(self):
        try:
            self.lock = os.open(self.PATH, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            free = int((self.PATH / "free_hugepages").read_text())
            self.before = (self.PATH / "nr_hugepages").read_text()
            if free < self.count:
                (self.PATH / "nr_hugepages").write_text(
                    str(int(self.before) + self.count - free))
            free = int((self.PATH / "free_hugepages").read_text())
        except OSError as e:
            self.unlock()
            raise Skip(f"huge pages: {e.strerror}: {e.filename}") from None
        if free < self.count:
            self.__exit__()
            raise Skip(f"only {free} of {self.count} free 2 MiB huge pages")
        return self

    def __exit__(self, *unused):
        if self.before is not None:
            (self.PATH / "nr_hugepages").write_text(self.before)
        self.unlock()

    def unlock(self):
        if self.lock is not None:
            os.close(self.lock)
        self.lock = None


def main(*functions):
    """Run each; exit status 1 if one failed, 77 if all were skipped."""
    wanted = sys.argv[1:]
    ran = skipped = failed = 0
    for function in functions:
        if wanted and function.__name__ not in wanted:
            continue
        started = time.monotonic()
        try:
            need_userfaultfd()
            function()
            ran += 1
            print(f"ok {function.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        except Skip as e:
            skipped += 1
            print(f"SKIP: {function.__name__}: {e}", flush=True)
        except Exception:  # pylint: disable=broad-except # a test's failure is its result
            failed += 1
            print(f"FAILED {function.__name__}", flush=True)
            traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 77 if skipped and not ran else 0)
