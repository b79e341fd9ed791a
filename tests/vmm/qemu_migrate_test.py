# SPDX-License-Identifier: Apache-2.0
"""Promise: a guest of an unmodified QEMU moves while it runs, by one command, whatever its
machine and its memory, and never sees a word that it did not write there last.
"""
import contextlib
import json
import pathlib
import tempfile

from qemu_bed import QemuBed, backend, downtime_ms, main_memory
from e2e import HugePages, check, main, wait_until

SIZE = 128
PAGES = 16384  # that the guest checks: the largest power of two, see its begin()


def migrate_checked(machine, options, end=SIZE, destination_options=None):
    """From one QEMU to another, and what the command said."""
    with QemuBed() as bed:
        source, destination = bed.pair(machine, options, destination_options)
        source.begin(end)
        source.check_on(PAGES // 2)
        output = bed.migrate(source, destination, "--wait")
        check("completed" in output, f"no end of it in {output!r}")
        check(source.status() == "postmigrate", f"the source's QEMU is {source.status()}")
        check(destination.status() == "running", f"the destination's is {destination.status()}")
        # Every page was read once at least, after it came.
        destination.check_on(2 * PAGES)
        shown = json.loads(bed.ctl("show", output.split()[1], "--json"))
        check(shown["state"] == "completed" and shown["pages_poisoned"] == 0, f"{shown}")
        check(shown["faults"] > 0, "no page was asked for by a fault")
        wait_until("released", lambda: source.memory('{"command":"status"}')["out"]["state"] ==
                   "released")
        print(f"{machine}: downtime {downtime_ms(output)} ms, {shown['faults']} faults")


def test_pc_memfd():
    machine, options = main_memory("memfd", SIZE)
    migrate_checked("pc" + machine, options)


def test_q35_file():
    """A file on tmpfs for each side, as the hosts would have them."""
    with tempfile.TemporaryDirectory(prefix="postcopy-", dir="/dev/shm") as directory:
        paths = [pathlib.Path(directory) / name for name in ("source", "destination")]
        (machine, options), (_, others) = (main_memory("file", SIZE, path=p) for p in paths)
        migrate_checked("q35" + machine, options, destination_options=others)


def test_microvm_memfd():
    machine, options = main_memory("memfd", SIZE)
    migrate_checked("microvm" + machine, options)


def test_file_in_directory():
    """mem-path names a directory, in which QEMU makes a file that has no name for long."""
    with tempfile.TemporaryDirectory(prefix="postcopy-", dir="/dev/shm") as directory:
        machine, options = main_memory("file", SIZE, path=directory)
        migrate_checked("pc" + machine, options)


def test_several_backends():
    """Two NUMA nodes: two regions under one guest, one a memfd and one a file, and given as
    JSON, too."""
    with tempfile.TemporaryDirectory(prefix="postcopy-", dir="/dev/shm") as directory:
        def options(name):
            second = {"qom-type": "memory-backend-file", "id": "high", "share": True,
                      "size": SIZE * 1048576, "mem-path": f"{directory}/{name}"}
            return ["-m", str(2 * SIZE), *backend("low", "memfd", SIZE), "-object",
                    json.dumps(second), "-numa", "node,nodeid=0,memdev=low",
                    "-numa", "node,nodeid=1,memdev=high"]
        migrate_checked("q35", options("source"), 2 * SIZE - 1, options("destination"))


def test_memory_device():
    """A DIMM beside the main memory: its pages move as well, though the guest has no use for
    them."""
    machine, options = main_memory("memfd", SIZE)
    options[1] = f"{SIZE},slots=2,maxmem=1G"
    options += [*backend("dimm", "memfd", 64), "-device", "pc-dimm,memdev=dimm"]
    migrate_checked("pc" + machine, options)


def test_virtio_mem():
    """A device that discards its memory before any has come: there is nobody yet who would
    take note of it."""
    machine, options = main_memory("memfd", SIZE)
    options[1] = f"{SIZE},maxmem=1G"
    options += [*backend("vmem", "memfd", 64), "-device",
                "virtio-mem-pci,memdev=vmem,requested-size=0"]
    migrate_checked("pc" + machine, options)


def test_hugetlb():
    with contextlib.ExitStack() as stack:
        stack.enter_context(HugePages(SIZE))  # twice as many MiB: both sides are here
        machine, options = main_memory("memfd", SIZE, "hugetlb=on", "hugetlbsize=2M")
        migrate_checked("pc" + machine, options)


def test_unplugged():
    """A backend that was deleted is no memory of the guest any more."""
    with QemuBed() as bed:
        machine, options = main_memory("memfd", SIZE)
        source, destination = bed.pair("pc" + machine, [*backend("spare", "memfd", 64), *options],
                                       options)
        source.begin(SIZE)
        source.monitor.do("object-del", id="spare")
        wait_until("unmapped", lambda: [r["name"] for r in source.memory(
            '{"command": "status"}')["regions"]] == ["ram"])
        bed.migrate(source, destination, "--wait")
        destination.check_on(2 * PAGES)


def test_sandbox():
    """As libvirt starts it: with QEMU's seccomp filter."""
    machine, options = main_memory("memfd", SIZE)
    options += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                "resourcecontrol=deny"]
    migrate_checked("pc" + machine, options)


main(test_pc_memfd, test_q35_file, test_microvm_memfd, test_file_in_directory,
     test_several_backends, test_memory_device, test_virtio_mem, test_hugetlb, test_unplugged,
     test_sandbox)
