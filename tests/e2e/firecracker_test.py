# SPDX-License-Identifier: Apache-2.0
"""Firecracker as the VMM: every generation of its message, hung up or not, with and without
removals; the guest runs at once, hears nothing, and no byte is wrong. testguest does what the
real one does with the socket and the userfaultfd."""
import array
import os
import pathlib
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, HugePages, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
VERSIONS = (1, 7, 12, 16)
REGIONS = ("mem0:anon:24M", "mem1:anon:8M")
DISCARD = "discard 1024 512"


def started(bed, *regions, poison=0, start=(), late=0):
    """A migration with a socket for Firecracker; its source is exported and frozen."""
    m = bed.migration(*regions, poison=poison, late=late, packed=True)
    m.source_guest = m.source()
    m.path = bed.dir / f"{m.name}.sock"
    m.start("--firecracker-socket", m.path, *start)
    check(m.path.is_socket(), "there is no socket")
    return m


def finish(m, guest):
    guest.wait_event("touched")
    shown = m.wait_state("completed")
    guest.say("verify")
    guest.finish()
    m.source_guest.finish()
    check(guest.value("off") == 0, f"wrong: {guest.all('wrong-page')}")
    m.check_ledger(guest)
    return shown


def test_every_version():
    """The message of each is understood, and poison arrives; the socket goes when it has come."""
    with Bed(FAST) as bed:
        for version in VERSIONS:
            m = started(bed, *REGIONS, poison=8)
            guest = m.firecracker(m.path, version)
            wait_until("the socket has gone", lambda p=m.path: not p.exists())
            shown = finish(m, guest)
            check(shown["pages_poisoned"] == 8, str(shown["pages_poisoned"]))
            check([r["name"] for r in shown["regions"]] == ["mem0", "mem1"], str(shown["regions"]))
            check([r["guest_physical_address"] for r in shown["regions"]] == [0, 24 << 20],
                  "not the offsets")


def test_huge_pages():
    """hugetlbfs behind the guest, as page_size says."""
    with HugePages(32), Bed(FAST) as bed:
        for version in (7, 12):
            m = started(bed, "mem0:hugetlb:16M", "mem1:hugetlb:8M", poison=2)
            shown = finish(m, m.firecracker(m.path, version))
            check({r["page_size"] for r in shown["regions"]} == {2 << 20}, str(shown["regions"]))


def test_many_regions():
    """More than one read takes."""
    with Bed(FAST) as bed:
        m = started(bed, *(f"mem{i}:anon:{1 + i % 3}M" for i in range(16)), poison=40)
        finish(m, m.firecracker(m.path, 16))


def test_balloon():
    """What the guest gives back is zeros, also where an old version has a balloon."""
    with Bed(FAST) as bed:
        for version, options in ((1, ("--balloon",)), (12, ()), (16, ())):
            m = started(bed, *REGIONS, poison=8, start=("--bandwidth", "64K"))
            guest = m.firecracker(m.path, version, "--pause-after", "200", *options)
            guest.wait_event("paused")
            guest.say(DISCARD)
            guest.wait_event("discarded")
            bed.ctl("set-limits", m.id, "--bandwidth", "0")
            guest.say("go")
            check(finish(m, guest)["pages_removed"] > 0, "nothing was removed")


def test_balloon_storm():
    """Pages are given back before, while and after they come, from two threads beside four that
    touch all: none shows the source's data afterwards, and what is lost stays lost."""
    with Bed(FAST) as bed:
        for version, options in ((1, ("--balloon",)), (16, ())):
            m = started(bed, "mem0:anon:64M", "mem1:anon:16M", poison=64)
            shown = finish(m, m.firecracker(m.path, version, "--storm", "4", *options))
            check(shown["pages_removed"] > 1000, f"{shown['pages_removed']} were removed")


def test_killed_meanwhile():
    """A daemon that dies in the middle, or before the call, costs nothing."""
    with SupervisedBed(FAST) as bed:
        for version in (1, 16):
            m = started(bed, *REGIONS, poison=8, start=("--bandwidth", "64K"))
            bed.restart_service()
            check(m.path.is_socket() and m.show()["state"] == "setup", "forgotten")
            guest = m.firecracker(m.path, version, "--pause-after", "200")
            guest.wait_event("paused")
            for _ in range(3):
                bed.restart_service()
            m.wait_state("postcopy-active")
            bed.ctl("set-limits", m.id, "--bandwidth", "0")
            guest.say("go")
            finish(m, guest)


def test_death_in_the_middle():
    """A Firecracker that ends is noticed, whether its socket was open or not; a handler that
    is told of no hang-up before does not take one for the end."""
    with Bed(FAST) as bed:
        for version in VERSIONS:
            m = started(bed, *REGIONS, start=("--bandwidth", "64K"))
            guest = m.firecracker(m.path, version, "--pause-after", "200")
            guest.wait_event("paused")
            m.wait_state("postcopy-active")
            guest.kill()
            check("VMM exited" in m.wait_state("failed")["state_text"], str(m.show()))
            m.wait_state("frozen", on_source=True)
            m.source_guest.kill()


def raw_call(path, data, fds=(), pieces=1):
    """What comes back is nothing; returns when the daemon has hung up."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(str(path))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            for i in range(pieces):
                part = data[len(data) * i // pieces:len(data) * (i + 1) // pieces]
                s.sendall(part[s.sendmsg([part], rights if i == 0 else []):])
            if not data:
                s.shutdown(socket.SHUT_WR)
            check(s.recv(1) == b"", "it answered")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it had enough


def test_bad_calls():
    """Each is refused with a text for the operator, and the right one still comes through."""
    with Bed(FAST) as bed:
        m = started(bed, *REGIONS, poison=4)
        good = b'[{"base_host_virt_addr":65536,"size":4096,"offset":0}]'
        file = os.memfd_create("not a userfaultfd")
        cases = (
            (b"GET / HTTP/1.1\r\n\r\n", (), "not JSON"),
            (b"[]", (file,), "1 to 512 regions"),
            (good, (), "no userfaultfd came"),
            (good, (file, file), "more than one descriptor"),
            (good, (file,), "not a userfaultfd"),
            (good.replace(b"65536", b'"x"'), (file,), "base_host_virt_addr is not a number"),
            (b"", (), "hung up before its message was whole"),
            (b"[" + b'"x",' * 70000, (file,), "not whole after"),
        )
        for data, fds, word in cases:
            raw_call(m.path, data, fds, pieces=3 if len(data) < 1000 else 1)
            wait_until(word, lambda w=word: w in m.show()["state_text"])
            check(m.show()["state"] == "setup", m.show()["state"])
        os.close(file)
        finish(m, m.firecracker(m.path, 16))


def test_bad_sockets():
    """A path that cannot be is refused at the start; nothing is left of such a migration."""
    with Bed(FAST) as bed:
        first = started(bed, *REGIONS)
        for path, status, word in (
                (bed.dir / "no" / "x.sock", 1, "No such file"), (first.path, 1, "another process listens"),
                ("relative.sock", 2, "not an absolute path"), ("/" + "x" * 200, 2, "at most 107")):
            m = bed.migration(*REGIONS)
            said = m.start("--firecracker-socket", path, status=status)
            check(word in said, f"{path}: {said}")
            check(bed.ctl("show", m.id, status=None) is None, f"{path}: it was started")
        bed.ctl("cancel", first.id)
        wait_until("the socket has gone", lambda: not first.path.exists())
        first.source_guest.kill()


main(test_every_version, test_huge_pages, test_many_regions, test_balloon, test_balloon_storm,
     test_killed_meanwhile,
     test_death_in_the_middle, test_bad_calls, test_bad_sockets)
