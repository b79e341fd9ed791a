# SPDX-License-Identifier: Apache-2.0
"""A VMM that moves its guest's memory about (mremap) while it arrives: its pages arrive where
they are then. Without the event of a move the kernel would make zeros of what is missing."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}


def moved(*regions, options=(), start=("--bandwidth", "40M"), moves=100):
    with Bed() as bed:
        m = bed.migration(*regions, poison=64, late=8)
        shown, _, guest = m.run(source_options=("--read-poison",), start_options=start,
                                destination_options=("--moves", moves, *options), late=True)
        check(guest.all("moved") == [str(moves)], f"moved {guest.all('moved')}")
        check(shown["lost_bytes"] > 0, "nothing was lost")


def test_anonymous():
    """Whoever does the handshake: the daemon."""
    moved("ram0:anon:48M", "ram1:anon:16M")


def test_memfd():
    """Shared memory, MISSING and MINOR."""
    moved("ram0:memfd:32M", "ram1:memfd-minor:32M")


def test_registered():
    """A client that has switched all these events on by itself."""
    moved("ram0:anon:24M", "ram1:memfd:24M", "ram2:memfd-minor:16M", options=("--registered", "--events"))


def test_lanes():
    """With several userfaultfds."""
    moved("ram0:anon:24M", "ram1:memfd:24M", "ram2:memfd-minor:24M", options=("--uffds", "3"))


def test_split():
    """With regions in pieces, each of which is moved about by itself."""
    moved("ram0:anon:48M", "ram1:memfd-minor:16M", options=("--split", "4"), moves=150)


def test_killed():
    """Neither a move that was followed nor one that was only read is lost with the daemon."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:anon:32M", "ram1:memfd-minor:32M", poison=48)
        source = m.source()
        m.start("--bandwidth", "10M")
        guest = m.destination("--moves", 200, "--waits", "2000")
        guest.wait_event("touching")
        for _ in range(10):
            if m.show()["state"] == "completed":
                break
            bed.restart_service()
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        check(shown["state"] == "completed", shown["state"])
        check(guest.value("off") == 0, "pages are off")
        check(guest.all("moved") == ["200"], f"moved {guest.all('moved')}")


def moved_quickly(bed, kind, start=()):
    m = bed.migration(f"ram0:{kind}:16M", poison=8)
    source = m.source()
    m.start(*start)
    guest = m.destination("--moves", 5000, "--move-parts")
    guest.finish()
    source.finish()
    shown = m.check_ledger(guest)
    check(guest.all("moved") == ["5000"], f"moved {guest.all('moved')}")
    check(guest.value("off") == 0, f"pages are off: {guest.all('wrong-page')}")
    check(shown["pages_removed"] == 0, f"{shown['pages_removed']} pages count as unmapped")


def test_moved_quickly():
    """Thousands of moves: a page placed in the moment of one is neither wrong nor unmapped."""
    with Bed() as bed:
        for kind in ("anon", "memfd", "memfd-minor"):
            moved_quickly(bed, kind, ("--bandwidth", "4M"))


def test_moved_at_the_end():
    """The last page arrives in the middle of a move: its thread is not left waiting."""
    with Bed() as bed:
        for _ in range(20):
            moved_quickly(bed, "anon")


def replaced(*options):
    with Bed() as bed:
        m = bed.migration("ram0:anon:16M", "ram1:memfd:16M")
        source = m.source()
        m.start("--bandwidth", "10M")
        guest = m.destination("--pause-after", "50", *options)
        guest.wait_event("paused")
        guest.say("replace 1000 300")  # of 4096 pages each
        guest.say("replace 5000 2000")
        guest.say("go")
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        source.finish()
        shown = m.show()
        check(shown["state"] == "completed" and shown["lost_bytes"] == 0, str(shown))
        check(guest.value("off") == 0, "pages are off")


def test_replaced():
    """Memory that the VMM unmaps is not the guest's any more: what it maps there stays its own,
    with the event of that and without."""
    replaced()
    replaced("--registered")
    replaced("--registered", "--events")


def test_children():
    """A child process does not get the memory: it would make zeros of what is missing."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:4M")
        source = m.source()
        m.start()
        guest = m.destination("--pause-after", "1")
        guest.wait_event("paused")
        maps = pathlib.Path(f"/proc/{guest.popen.pid}/smaps").read_text(encoding="ascii")
        mapping = maps[maps.index("/memfd:ram0"):]
        flags = mapping[mapping.index("VmFlags:"):].splitlines()[0]
        check(" dc" in flags, flags)
        guest.say("go")
        guest.finish()
        source.finish()


def test_too_many_pieces():
    """More than can be followed: it fails with a reason, and nothing reads zeros."""
    with Bed() as bed:
        m = bed.migration("ram0:anon:32M")
        source = m.source()
        m.start("--bandwidth", "1M")
        guest = m.destination("--moves", 2000, "--threads", "1")
        wait_until("it has failed", lambda: m.show()["state"] == "failed")
        check("cannot be followed" in bed.daemon.log_text(), "no reason in the log")
        check(not guest.all("wrong-page"), "pages are wrong")
        guest.kill()
        source.kill()


main(test_anonymous, test_memfd, test_registered, test_lanes, test_split, test_killed,
     test_moved_quickly, test_moved_at_the_end, test_replaced,
     test_children, test_too_many_pieces)
