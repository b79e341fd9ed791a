# SPDX-License-Identifier: Apache-2.0
"""Promise: a QEMU whose memory could not be the source's, word for word, is refused with a
text that says why: a destination ends before it runs, a source runs on.
"""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import tempfile
import uuid

from back_end import BackEnd
from qemu_bed import GUEST, MIB, PRELOAD, Machine, QemuBed, backend, main_memory
from e2e import DESTINATION_NAME, Skip, check, main

SIZE = 64


# pylint: disable-next=too-many-arguments,too-many-positional-arguments
def refused(bed, what, text, machine, options, environment=None, user=None):
    """As a destination it ends, and says text."""
    m = Machine(bed, f"refused{len(bed.machines)}", machine, options, True, environment, user)
    status, log = m.ended()
    check(status == 1, f"{what}: exit status {status}: {log}")
    check(text in log and "libpostcopy-qemu: " in log, f"{what}: no {text!r} in {log!r}")


def memory(*more, kind="memfd", path=None):
    machine, options = main_memory(kind, SIZE, *more, path=path)
    return "pc" + machine, options


def test_what_makes_pages():
    """Memory that is there before the source stands still would be wrong."""
    with QemuBed() as bed:
        machine, options = memory()
        refused(bed, "-mem-prealloc", "-mem-prealloc touches all memory", machine,
                [*options, "-mem-prealloc"])
        refused(bed, "--mem-prealloc", "-mem-prealloc touches all memory", machine,
                [*options, "--mem-prealloc"])
        refused(bed, "prealloc=on", "id=ram: prealloc=on touches", *memory("prealloc=on"))
        refused(bed, "mem-lock", "locking touches all memory", machine,
                [*options, "-overcommit", "mem-lock=on"])
        with tempfile.NamedTemporaryFile(prefix="postcopy-", dir="/dev/shm") as file:
            file.write(b"x" * MIB)
            file.truncate(SIZE * MIB)
            file.flush()
            refused(bed, "a file with content", "memory backend ram has 1024 KiB in it already",
                    *memory(kind="file", path=file.name))
        as_json = {"qom-type": "memory-backend-memfd", "id": "ram", "size": SIZE * MIB,
                   "prealloc": True}
        refused(bed, "prealloc as JSON", "id=ram: prealloc=on touches", "pc,memory-backend=ram",
                ["-m", str(SIZE), "-object", json.dumps(as_json)])
        config = bed.dir / "qemu.conf"
        config.write_text(f'[object "more"]\nqom-type = "memory-backend-memfd"\nshare = "on"\n'
                          f'size = "{SIZE}M"\n')
        refused(bed, "a backend out of sight", "is not on its command line", machine,
                [*options, "-readconfig", config])


def test_pages_made_later():
    """Also by its monitor: QEMU ends rather than run a guest on zeros."""
    with QemuBed() as bed:
        machine, options = memory()
        m = bed.machine("later", machine, options, True)
        try:
            m.monitor.do("qom-set", path="/objects/ram", property="prealloc", value=True)
        except (AssertionError, OSError):
            pass  # no answer comes
        status, log = m.ended()
        check(status == 1 and "MADV_POPULATE" in log, f"prealloc later: {status} {log}")


def test_pages_at_attach():
    """What somebody else has put into the memory's file meanwhile is not the source's."""
    with tempfile.TemporaryDirectory(prefix="postcopy-", dir="/dev/shm") as directory, \
            QemuBed() as bed:
        path = pathlib.Path(directory) / "memory"
        m = bed.machine("late", *memory(kind="file", path=path), True)
        with open(path, "r+b") as file:
            file.write(b"x")
        says_no(m, attach(bed), 39, "has 4 KiB in it already")


def test_no_right():
    """A user who may open no userfaultfd is told how to get one."""
    if os.geteuid() != 0 or pathlib.Path("/dev/userfaultfd").stat().st_mode & 0o006 or \
            pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0":
        raise Skip("every user has userfaultfd here, or this one is not root")
    with QemuBed() as bed:
        bed.dir.chmod(0o777)
        preload = shutil.copy(PRELOAD, bed.dir)
        machine, options = memory()
        refused(bed, "nobody", "no userfaultfd for this user", machine,
                [*options, "-kernel", shutil.copy(GUEST, bed.dir)], {"LD_PRELOAD": preload}, 65534)


def test_what_is_not_shared():
    """Memory that cannot be handed over."""
    with QemuBed() as bed, tempfile.TemporaryDirectory(prefix="postcopy-") as directory:
        refused(bed, "no backend", "the guest's memory is no memory backend", "pc",
                ["-m", str(SIZE)])
        refused(bed, "a backend that is not the main memory",
                "the guest's memory is no memory backend", "pc",
                ["-m", f"{SIZE},slots=1,maxmem=1G", *backend("dimm", "memfd", SIZE), "-device",
                 "pc-dimm,memdev=dimm"])
        refused(bed, "memory-backend-ram", "memory-backend-ram has no file", *memory(kind="ram"))
        options = [o.replace("share=on", "share=off") for o in memory()[1]]
        refused(bed, "share=off", "id=ram: this memory is private to QEMU", memory()[0], options)
        path = pathlib.Path("/dev/shm") / f"postcopy-{uuid.uuid4()}"
        options = [o.replace("share=on,", "") for o in memory(kind="file", path=path)[1]]
        refused(bed, "a file without share", "say share=on", memory()[0], options)
        check(not path.exists(), f"{path} was made")
        refused(bed, "a file on a disk", "its file is neither on tmpfs",
                *memory(kind="file", path=f"{directory}/memory"))


def test_what_is_not_ours():
    """Ways past our userfaultfd, and a destination that nobody could speak to."""
    with QemuBed() as bed:
        machine, options = memory()
        refused(bed, "vfio", "-device vfio-pci: the device holds all", machine,
                [*options, "-device", "vfio-pci,host=00:00.0"])
        refused(bed, "no socket", "POSTCOPY_QEMU_SOCKET is not set", machine, options,
                {"POSTCOPY_QEMU_SOCKET": ""})
        taken = bed.dir / "taken"
        taken.write_text("")
        refused(bed, "a socket's path that is taken", "exists and is not a socket", machine,
                options, {"POSTCOPY_QEMU_SOCKET": str(taken)})
        m = Machine(bed, "now", machine, [*options, "-incoming", f"unix:{bed.dir}/state"])
        status, log = m.ended()
        check(status == 1 and "use -incoming defer" in log, f"-incoming unix: {status} {log}")


def test_other_processes():
    """A vhost-user back end that would make zeros of what has not come."""
    with QemuBed() as bed, contextlib.ExitStack() as stack:
        machine, options = memory()
        disk = bed.dir / "disk"
        disk.write_bytes(bytes(MIB))
        for name, preload, socket_path, text in (
                ("bare", False, bed.dir / "refused0.memory", "no such library"),
                ("stranger", True, bed.dir / "elsewhere", "it has the library")):
            back_end = BackEnd(bed.dir, name, disk, socket_path, preload)
            stack.callback(back_end.close)
            refused(bed, name, text, machine, [*options, *back_end.options()])
            log = bed.machines[-1].log_text()
            check(f"process {back_end.pid} would read zeros" in log, f"{name}: {log}")
        # A source's memory is all there.
        back_end = BackEnd(bed.dir, "source", disk, bed.dir / "source.memory", False)
        stack.callback(back_end.close)
        bed.machine("source", machine, [*options, *back_end.options()]).begin(SIZE)


def says_no(machine, request, number, text):
    """The request is refused, and QEMU lives."""
    answer = machine.memory(request if isinstance(request, bytes) else json.dumps(request))
    check(not answer["ok"] and answer["errno"] == number and text in answer["error"],
          f"{request}: {answer} instead of {number}, {text!r}")


def export(bed, **more):
    return {"command": "export", "id": str(uuid.uuid4()), "token": "00" * 32,
            "peer": DESTINATION_NAME, "socket": str(bed.dir / "export.sock"), **more}


def attach(bed, **more):
    return {"command": "attach", "id": str(uuid.uuid4()), "token": "00" * 32,
            "socket": str(bed.dir / "attach.sock"), **more}


def test_source_runs_on():
    """What is wrong with a source is said when it is exported."""
    with QemuBed() as bed:
        machine, options = memory()
        prealloc = bed.machine("prealloc", machine, [*options, "-mem-prealloc"])
        check(prealloc.memory(json.dumps(export(bed)))["ok"], "a source may have all its memory")
        options = ["-m", f"{SIZE},slots=1,maxmem=1G", *backend("dimm", "memfd", SIZE), "-device",
                   "pc-dimm,memdev=dimm"]
        private = bed.machine("private", "pc", options)
        private.begin(32)
        says_no(private, export(bed), 95, "the guest's memory is no memory backend")
        private.check_on(1000)
        added = bed.machine("added", *memory())
        added.monitor.do("object-add", **{"qom-type": "memory-backend-memfd", "id": "more",
                                          "size": MIB, "share": True})
        says_no(added, export(bed), 95, "is not on its command line")


def test_requests():
    """Nothing that comes over the command socket ends QEMU."""
    with QemuBed() as bed:
        source, destination = bed.pair(*memory())
        source.begin(SIZE)
        says_no(source, b"what?\n", 22, "not a JSON object")
        says_no(source, b"[1]\n", 22, "is no command")
        says_no(source, b'{"command": "quit"}\n', 22, '"quit" is no command')
        says_no(source, b"x" * 5000, 90, "at most 4095 bytes")
        says_no(source, attach(bed), 22, "not started with -incoming defer")
        says_no(destination, export(bed), 16, "waits for a guest")
        says_no(source, {"command": "freeze"}, 2, "is not exported")
        says_no(source, {"command": "withdraw"}, 2, "is not exported")
        says_no(source, {"command": "wait"}, 2, "no memory comes to this QEMU")
        says_no(source, {"command": "share"}, 22, "share: ")
        says_no(source, {"command": "share", "device": "0", "inode": 1}, 22, "share: ")
        says_no(destination, {"command": "share", "device": 0, "inode": 0}, 11,
                "nobody may have its memory before it is attached")
        says_no(source, export(bed, id="1"), 22, "is not a migration ID")
        says_no(source, export(bed, token="xyz"), 22, "in hexadecimal")
        says_no(source, export(bed, peer=7), 22, "export: ")
        says_no(source, export(bed, more=1), 22, "export: ")
        says_no(source, export(bed, socket="/nowhere"), 2, "/nowhere")
        says_no(destination, attach(bed), 126, "postcopyctl start")
        check(source.memory(json.dumps(export(bed)))["ok"], "not exported")
        says_no(source, export(bed), 16, "is exported already")
        says_no(source, {"command": "withdraw", "id": str(uuid.uuid4())}, 2, "not exported for")
        check(source.memory('{"command": "withdraw"}')["ok"], "not withdrawn")
        clients = [socket.socket(socket.AF_UNIX) for _ in range(9)]
        for client in clients:
            client.connect(str(source.paths["memory"]))
        check(b"too many connections" in clients[8].recv(4096), "the ninth is let in")
        for client in clients:
            client.close()
        mode = source.paths["memory"].stat().st_mode & 0o777
        check(mode == 0o600, f"the socket's mode is {mode:o}")
        source.check_on(1000)


main(test_what_makes_pages, test_pages_made_later, test_pages_at_attach, test_no_right,
     test_what_is_not_shared, test_what_is_not_ours, test_other_processes, test_source_runs_on,
     test_requests)
