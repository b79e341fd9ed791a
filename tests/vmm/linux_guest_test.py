# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest under unmodified QEMU, with virtio disk and network and two vCPUs, moves
from host to host while it works, and never finds a wrong byte: not in its memory, which it walks
over page by page with generations, not on its disk, not in its packets.
"""
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position
from e2e import HugePages, check, main  # noqa: E402
from linux_bed import MEMORY_MIB  # noqa: E402
from linux_journey import Journey, check_notices, told  # noqa: E402
# pylint: enable=wrong-import-position


def test_moves_while_the_daemon_dies():
    """One migration, its console before and after, and kill -9 of the daemon in the middle of the
    memory. At the end the guest notices whatever is wrong."""
    with Journey() as journey:
        journey.boot()
        guest = journey.guest
        started = time.monotonic()
        hop, shown = journey.hop(kills=1)
        guest.wait_walked(2)
        told(guest, hop, shown, started)
        check(shown["postcopy_requests"] > 0, "the guest never had to ask for a page")
        check_notices(guest, journey.machine)
        journey.show_console()


def test_twenty_times():
    """There and back ten times; on each host the guest sees all its memory before it goes on."""
    with Journey() as journey:
        journey.boot()
        for _ in range(20):
            started = time.monotonic()
            hop, shown = journey.hop()
            journey.guest.wait_walked(1)
            told(journey.guest, hop, shown, started)
        check_notices(journey.guest, journey.machine)


def test_chain_of_ten():
    """Over three hosts, and on as soon as all the memory is there, with no time for the guest to
    see it."""
    with Journey(hosts=3) as journey:
        journey.boot()
        for _ in range(10):
            started = time.monotonic()
            hop, shown = journey.hop()
            told(journey.guest, hop, shown, started)
        journey.guest.wait_walked(2)
        check(journey.guest.check_right()["passes"] > 2, "the guest came to no end of a walk")


def moves_on(**machine):
    """Twice, kill -9 of the daemon in the first one."""
    with Journey(**machine) as journey:
        journey.boot()
        for kills in (1, 0):
            started = time.monotonic()
            hop, shown = journey.hop(kills=kills)
            journey.guest.wait_walked(2)
            told(journey.guest, hop, shown, started)


def test_memory_file():
    """Its memory is a file on tmpfs, another one on each host, and the machine a q35."""
    with tempfile.TemporaryDirectory(prefix="postcopy-vmm-", dir="/dev/shm") as directory:
        moves_on(machine="q35",
                 backend=f"memory-backend-file,mem-path={directory}/{{machine}}.memory")


def test_huge_pages():
    """Its memory is huge pages: of two mebibytes, and a fault is for a whole one."""
    with HugePages(MEMORY_MIB):  # of two MiB, for two machines
        moves_on(backend="memory-backend-memfd,hugetlb=on,hugetlbsize=2M")


def test_daemon_dies_often():
    """kill -9 of the daemon five times in each of four migrations."""
    with Journey() as journey:
        journey.boot()
        for _ in range(4):
            started = time.monotonic()
            hop, shown = journey.hop(kills=5)
            journey.guest.wait_walked(1)
            told(journey.guest, hop, shown, started)


main(test_moves_while_the_daemon_dies, test_twenty_times, test_chain_of_ten,
     test_daemon_dies_often, test_memory_file, test_huge_pages)
