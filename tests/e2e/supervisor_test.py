# SPDX-License-Identifier: Apache-2.0
"""The supervisor of the restart tests does what systemd does: if it kept too much, or
passed it otherwise, those tests would show nothing."""
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import PATIENCE, check, main  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import Supervisor  # noqa: E402 pylint: disable=wrong-import-position

# A real service: it keeps files the first time, and tells what it was given each time.
SERVICE = """
import array, os, socket, sys
names = os.environ["LISTEN_FDNAMES"].split(":")
try:
    os.fstat(3 + len(names))
    print("more than was named", flush=True)
except OSError:
    pass
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
def tell(text, *fds):
    s.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
              if fds else [])
def barrier():
    r, w = os.pipe()
    tell("BARRIER=1", w)
    os.close(w)
    os.read(r, 1)
def memory(text):
    fd = os.memfd_create(text)
    os.write(fd, text.encode())
    return fd
assert int(os.environ["LISTEN_PID"]) == os.getpid()
assert int(os.environ["LISTEN_FDS"]) == len(names)
given = [(n, os.pread(3 + i, 99, 0).decode()) for i, n in enumerate(names) if n[0] == "f"]
print(",".join(names), given, flush=True)
if not given:
    first = memory("one")
    tell("FDSTORE=1\\nFDPOLL=0\\nFDNAME=f1", first)
    tell("FDSTORE=1\\nFDNAME=f1again", os.dup(first))
    for name in ("f2", "f3", "gone", "f4"):
        tell("FDSTORE=1\\nFDNAME=" + name, memory(name))
    tell("FDSTOREREMOVE=1\\nFDNAME=gone")
    barrier()
tell("STATUS=well\\nREADY=1")
sys.stdin.read()
"""


def run_once(supervisor, log):
    process = supervisor.spawn([sys.executable, "-c", SERVICE], log)
    check(supervisor.ready.wait(PATIENCE), "not ready")
    said = process.stdout.readline().decode().strip()
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()
    return said


def test_keeps_and_passes_as_systemd():
    """Newest first, behind the sockets; the same file once; what is too much, or taken out,
    is not there."""
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        supervisor = Supervisor(directory, "postcopyd", store_max=4)
        with open(directory / "log", "ab") as log:
            first = run_once(supervisor, log)
            # "gone" took the last place when f4 came.
            check(first == "control,attach,status []", first)
            check(supervisor.names() == ["f3", "f2", "f1"], str(supervisor.names()))
            check(supervisor.last("STATUS") == "well", str(supervisor.told))
            again = run_once(supervisor, log)
        check(again == "control,attach,status,f3,f2,f1 "
              "[('f3', 'f3'), ('f2', 'f2'), ('f1', 'one')]", again)
        kept = [fd for _, fd in supervisor.store]
        supervisor.close()
        check(not any(pathlib.Path(f"/proc/self/fd/{fd}").exists() and
                      "memfd" in os.readlink(f"/proc/self/fd/{fd}") for fd in kept), "not closed")


main(test_keeps_and_passes_as_systemd)
