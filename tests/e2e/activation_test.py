# SPDX-License-Identifier: Apache-2.0
"""Listening sockets that the service manager made: both programs serve on them, and leave
their files and modes as they are."""
import os
import pathlib
import shutil
import signal
import socket
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import BUILD, Bed, Skip, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

NAMES = {"postcopyd": {"control": "control.sock", "attach": "attach.sock", "status": "status.sock"},
         "postcopy-sourced": {"control": "source.sock", "export": "export.sock"}}

# What systemd does: descriptors at 3, 4 ..., the environment, exec in the same process.
PARENT = """
import os, socket, sys
names, paths, extra, argv = sys.argv[1].split(":"), sys.argv[2].split(":"), sys.argv[3], sys.argv[4:]
fds = []
for path in paths:
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    os.chmod(path, 0o604)
    s.listen()
    fds.append(os.dup2(s.detach(), 50 + len(fds)))
if extra:
    names.append(extra)
    fds.append(os.dup2(os.memfd_create(extra), 50 + len(fds)))
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)),
                  LISTEN_FDNAMES=":".join(names))
os.execv(argv[0], argv)
"""


class ByParent(Bed):
    """Both programs get their sockets from a small parent, and something they do not know."""

    extra = "something.unknown"

    def sockets(self, name):
        return {n: self.dir / file for n, file in NAMES[name].items()}

    def command(self, name, program, config):
        sockets = self.sockets(name)
        return [sys.executable, "-c", PARENT, ":".join(sockets),
                ":".join(str(p) for p in sockets.values()), self.extra,
                *super().command(name, program, config)]


class BySocketActivate(ByParent):
    """systemd's own tool, which starts the program when the first client comes."""

    def command(self, name, program, config):
        sockets = self.sockets(name)
        passed_on = ["NOTIFY_SOCKET", "FDSTORE", *(k for k in os.environ if k.endswith("SAN_OPTIONS"))]
        argv = ["systemd-socket-activate", "--fdname=" + ":".join(sockets)]
        argv += [f"--listen={path}" for path in sockets.values()]
        argv += [f"--setenv={key}" for key in passed_on]
        return argv + Bed.command(self, name, program, config)

    def _service(self, name, program, config):
        first = self.sockets(name)["control"]
        client = threading.Thread(target=self.wake, args=(first,))
        client.start()
        try:
            return super()._service(name, program, config)
        finally:
            client.join()

    @staticmethod
    def wake(path):
        def connected():
            with socket.socket(socket.AF_UNIX) as s:
                return s.connect_ex(str(path)) == 0
        wait_until(f"{path} listens", connected)


def files_of(bed, name):
    """Which file it is, and its mode."""
    return {n: (p.stat().st_ino, p.stat().st_mode) for n, p in bed.sockets(name).items()}


def check_bed(bed):
    files = {name: files_of(bed, name) for name in NAMES}
    m = bed.migration("ram0:memfd:16M", "ram1:anon:8M", poison=8)
    m.run()
    check(bed.http("/healthz")[0] == 200, "the status socket does not answer")
    for name, process in (("postcopyd", bed.daemon), ("postcopy-sourced", bed.agent)):
        log = process.log_text()
        for n, path in bed.sockets(name).items():
            check(f'socket "{n}" comes from the service manager: {path}' in log,
                  f"{name} does not say where {n} comes from")
        check(process.kill(signal.SIGTERM) == 0, f"{name} did not end well")
        check(files_of(bed, name) == files[name], f"{name} changed the sockets' files: "
              f"{files[name]} became {files_of(bed, name)}")


def test_sockets_from_a_parent():
    with ByParent() as bed:
        for process in (bed.daemon, bed.agent):
            check(f'as "{bed.extra}", which nobody here asked for' in process.log_text(),
                  f"{process.name} says nothing of a descriptor that it does not know")
        check_bed(bed)


def test_sockets_from_socket_activate():
    if not shutil.which("systemd-socket-activate"):
        raise Skip("systemd-socket-activate is not installed")
    with BySocketActivate() as bed:
        check_bed(bed)


def test_own_sockets_go():
    """Without a service manager the files are the programs' own, and go with them."""
    with Bed() as bed:
        for name, process in (("postcopyd", bed.daemon), ("postcopy-sourced", bed.agent)):
            process.kill(signal.SIGTERM)
            left = [f for f in NAMES[name].values() if (bed.dir / f).exists()]
            check(not left, f"{name} left {left}")


def test_wrong_kind_is_refused():
    """A clear text, and no start: a control plane would wait at a socket that nobody serves."""
    with Bed() as bed:
        bed.daemon.kill(signal.SIGTERM)
        wrong = ByParent.__new__(ByParent)
        wrong.__dict__.update(bed.__dict__)
        wrong.extra = "control"
        wrong.sockets = lambda name: {"attach": bed.dir / "attach.sock"}
        try:
            wrong.start_daemon()
        except AssertionError as e:
            check("ended with 1" in str(e) and 'passed "control"' in str(e), str(e))
            check("expected a listening UNIX stream socket" in str(e), str(e))
        else:
            check(False, "it started with a memfd as its control socket")


if __name__ == "__main__":
    check(BUILD.is_dir(), f"{BUILD} is not there")
    main(test_sockets_from_a_parent, test_sockets_from_socket_activate, test_own_sockets_go,
         test_wrong_kind_is_refused)
