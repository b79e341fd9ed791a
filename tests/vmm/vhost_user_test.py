# SPDX-License-Identifier: Apache-2.0
"""The guest's disk is another process's (qemu-storage-daemon), which maps the guest's memory as
well: data arrives once, that process never reads zeros where memory has not come yet, and what is
lost is lost for it, too.
"""
import errno
import json
import os
import pathlib
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position
from e2e import PATIENCE, HugePages, check, main, wait_until  # noqa: E402
from linux_bed import DISK_MIB, MEMORY_MIB, WORD_STEP, memory_file  # noqa: E402
from linux_journey import SLOW, Journey, check_notices, told  # noqa: E402
from qemu_bed import MIB, QemuBed, main_memory  # noqa: E402
from back_end import OddBackEnd  # noqa: E402
# pylint: enable=wrong-import-position

PAGE = 4096
RECONNECT = "reconnect=1"


def check_attached(host, back_end):
    """The daemon serves it beside QEMU."""
    wait_until("the back end is served", lambda: any(
        f"pid {back_end.pid} maps its memory, too" in log.read_text(errors="replace")
        for log in host.dir.glob("postcopyd*.log")))


def test_disk_of_another_process():
    """Twice, and each time it is another process that has the disk; kill -9 of the daemon in the
    first one. At the end the guest notices whatever is wrong."""
    with Journey(vhost_user=True) as journey:
        journey.boot()
        for kills in (1, 0):
            started = time.monotonic()
            hop, shown = journey.hop(kills=kills)
            journey.guest.wait_walked(2)
            told(journey.guest, hop, shown, started)
            check_attached(hop.host, journey.machine.back_end)
        check_notices(journey.guest, journey.machine)


def test_back_end_dies():
    """kill -9 of the process that has the disk, while memory comes. One without the library gets no
    memory in its place. Another one does, and maps what is not all here, either."""
    with Journey(vhost_user=True, back_end_options=(RECONNECT,)) as journey:
        journey.boot()
        hop = journey.prepare()
        hop.move("--bandwidth", SLOW)
        check_attached(hop.host, hop.destination.back_end)
        hop.destination.back_end.close()
        hop.destination.start_back_end(preload=False)
        wait_until("QEMU refuses the next one", lambda: f"process {hop.destination.back_end.pid} "
                   "would read zeros" in hop.destination.log_text())
        hop.destination.back_end.close()
        hop.destination.start_back_end()
        check(hop.remaining() > 0, "all the memory was there before the back end died")
        check_attached(hop.host, hop.destination.back_end)
        hop.lift_limit()
        hop.wait_completed()
        journey.arrive()
        journey.guest.wait_walked(2)
        check_notices(journey.guest, journey.machine)


def test_huge_pages():
    """Of two MiB: the guest's memory is no multiple of them where the back end maps it."""
    with HugePages(MEMORY_MIB), Journey(  # for two machines
            vhost_user=True, backend="memory-backend-memfd,hugetlb=on,hugetlbsize=2M") as journey:
        journey.boot()
        hop, _ = journey.hop(kills=1)
        check_attached(hop.host, journey.machine.back_end)
        journey.guest.wait_walked(2)
        journey.guest.check_right()


def odd_before(destination, file):
    """Nobody has the memory of a QEMU that waits, or of one that cannot be asked."""
    for socket in (destination.paths["memory"], "/nowhere"):
        odd = OddBackEnd(file, socket)
        check(odd.ask("shared 0 4096") == os.strerror(errno.EPERM), f"{socket}: it is mapped")
        said = odd.close()
        check("another process has sent is not mapped: " in said, said)


def odd_meanwhile(odd, original):
    """While memory comes: all that is read is right."""
    def check_read(at, where):
        found = odd.ask(f"read {at}")
        check(found == os.pread(original.fileno(), 16, where).hex(), f"{found} at {where:#x}")

    check(odd.ask("private 0 4096") == os.strerror(errno.EPERM), "a private mapping is made")
    check(odd.ask(f"shared {64 * MIB} {32 * MIB + 5}") == "mapped", "it is not mapped")
    check(odd.ask(f"shared 0 {96 * MIB}") == "mapped", "it is not mapped again")
    for page in range(0, 8192, 16):
        check_read(page * PAGE, 64 * MIB + page * PAGE)
    check(odd.ask("unmap 0") == "unmapped", "the first part is not unmapped")
    for page in range(8, 24576, 64):
        check_read(page * PAGE, page * PAGE)


def test_odd_mappings():
    """Whatever of the memory a process maps, in whatever order: it never reads zeros where memory
    has not come, and what cannot be served is not mapped."""
    with QemuBed() as bed:
        machine, options = main_memory("memfd", 128)
        source, destination = bed.pair("pc" + machine, options)
        source.begin(128)
        source.check_on(1000)
        source.monitor.do("stop")  # so that memory stays as it is on both sides
        file = memory_file(destination.popen.pid)
        odd_before(destination, file)
        output = bed.migrate(source, destination, "--bandwidth", "8M")
        odd = OddBackEnd(file, destination.paths["memory"])
        with open(memory_file(source.popen.pid), "rb", buffering=0) as original:
            odd_meanwhile(odd, original)
        shown = json.loads(bed.ctl("show", output.split()[1], "--json"))
        check(shown["state"] == "postcopy-active", f"it came too soon: {shown['state']}")
        bed.ctl("set-limits", output.split()[1], "--bandwidth", "0")
        check(destination.memory('{"command": "wait"}')["ok"], "it does not complete")
        check(odd.ask("shared 0 4096") == "mapped", "it is not mapped when all is here")
        said = odd.close()
        check("is not mapped: only a shared mapping" in said and said.count("\n") == 1, said)
        destination.monitor.do("cont")
        destination.check_on(1000)


def mix(x):
    """As in linux_guest/pattern.c."""
    x = (x ^ (x >> 31)) * 0x7fb5d329728ea185 % 2**64
    x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44d % 2**64
    return x ^ (x >> 33)


def disk_words(generations=64):
    """The first words of all disk blocks, and which block they are of."""
    part = 1 << 56  # GUEST_DISK
    return {mix((mix(part ^ block) + generation) % 2**64) | 1: (generation, block)
            for block in range((DISK_MIB << 20) // 65536) for generation in range(1, generations)}


def disk_buffer(machine):
    """Where the guest has one of the buffers of its disk, not one of the last that it used: the
    place of one of its pages in the guest's memory."""
    known, found = disk_words(), []
    with open(memory_file(machine.popen.pid), "rb", buffering=0) as f:
        for at in range(0, MEMORY_MIB << 20, PAGE):
            first, second = struct.unpack("<2Q", os.pread(f.fileno(), 16, at))
            if (second - first) % 2**64 == WORD_STEP and first in known:
                found.append((known[first], at))
    check(len(found) > 64, f"only {len(found)} buffers in the guest's memory")
    return sorted(found)[-4][1]


def mapped_at(pid, name):
    """Where the process maps the file first, from its first byte on."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines():
        addresses, _, offset, _, _, *path = line.split(maxsplit=5)
        if int(offset, 16) == 0 and path and name in path[0]:
            return int(addresses.split("-")[0], 16)
    raise AssertionError(f"process {pid} does not map {name}")


def check_lost(machine, at):
    """In the back end's mapping this page, and none beside it, cannot be read."""
    base = mapped_at(machine.back_end.pid, "memory-backend-memfd")
    with open(f"/proc/{machine.back_end.pid}/mem", "rb", buffering=0) as memory, \
            open(memory_file(machine.popen.pid), "rb", buffering=0) as file:
        try:
            read = os.pread(memory.fileno(), PAGE, base + at)
        except OSError:
            read = None
        check(read is None, f"the lost page can be read: {read and read[:16]}")
        for other in (at - PAGE, at + PAGE):
            os.pread(memory.fileno(), PAGE, base + other)
        check(os.pread(file.fileno(), PAGE, at) == bytes(PAGE), "something is in the lost page")


def test_lost_page():
    """A page of a buffer is lost on the way. The device gets an error where the guest would have
    got zeros; so does a back end that maps the memory when all has come."""
    with Journey(vhost_user=True, back_end_options=(RECONNECT,)) as journey:
        journey.boot()
        guest = journey.guest
        hop = journey.prepare()
        command = hop.move_slowly()
        lost = disk_buffer(hop.source)
        journey.host().ctl("poison", hop.migration.id, f"{lost:#x}+{PAGE}", on_source=True)
        hop.source.monitor.do("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
        _, text = command.communicate(timeout=2 * PATIENCE)
        check(command.returncode == 0, f"exit status {command.returncode}: {text}")
        wait_until("an error of the disk", lambda: any(
            "WRONG disk block" in line and " cannot be read: " in line for line in guest.console.texts()))
        shown = hop.migration.wait_state("completed", "failed")
        check([(p["guest_physical_address"], p["lost"]) for p in shown["poisoned"]] ==
              [(lost, PAGE)], f"{shown}")
        check_lost(hop.destination, lost)
        hop.destination.back_end.close()
        hop.destination.start_back_end()
        wait_until("the next back end maps the memory", lambda: "memory-backend-memfd" in
                   pathlib.Path(f"/proc/{hop.destination.back_end.pid}/maps").read_text(
                       "utf-8"))
        check_lost(hop.destination, lost)
        check(not any("words are zero" in line for line in guest.console.texts()),
              f"the guest has seen zeros: {guest.console.texts()[-5:]}")


main(test_disk_of_another_process, test_back_end_dies, test_lost_page, test_huge_pages,
     test_odd_mappings)
