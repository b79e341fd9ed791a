# SPDX-License-Identifier: Apache-2.0
"""A second process maps the guest's memory, as a vhost-user back end does. It must find the
same as the guest: data once it is here, SIGBUS where a page is lost, never zeros; and whatever
it does, the guest goes on."""
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, HugePages, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
# So that memory is missing when a back end comes, however long that takes; lifted by go().
SLOW = ("--bandwidth", "64K")


def back_end(m, guest, *options, name="back-end", regions=None):
    return m.destination("--mapping-of", guest.popen.pid, *options, name=name, regions=regions)


def go(bed, m, *guests):
    """The rest may come now."""
    for g in guests:
        g.say("go")
    bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)


def lost_pages(guest):
    return sorted(guest.all("lost-page"))


def check_alike(m, guest, *back_ends):
    """Every process lost what the ledger has, and nothing else; no byte is wrong anywhere."""
    shown = m.check_ledger(guest)
    check(shown["state"] == "completed", shown["state"])
    check(guest.value("off") == 0, "pages of the guest are off")
    for b in back_ends:
        check(b.value("off") == 0, f"pages of {b.name} are off")
        check(lost_pages(b) == lost_pages(guest), f"{b.name} lost other pages than the guest")
    return shown


def beside_the_guest(*regions, poison=64, late=8, options=(), guest_options=()):
    with Bed() as bed:
        m = bed.migration(*regions, poison=poison, late=late)
        source = m.source("--read-poison")
        m.start(*SLOW)
        guest = m.destination("--pause-after", "8", *guest_options)
        guest.wait_event("paused")
        other = back_end(m, guest, *options)
        other.wait_event("touching")
        source.say("late")
        go(bed, m, guest)
        other.finish()
        guest.finish()
        source.finish()
        check_alike(m, guest, other)


def test_memfd():
    """Both touch every page in another order, while pages turn lost."""
    beside_the_guest("ram0:memfd:64M", "ram1:memfd:16M")


def test_memfd_minor():
    """In MINOR mode a page is in the file before it is whole: nobody must see that."""
    beside_the_guest("ram0:memfd-minor:64M", "ram1:memfd-minor:16M")


def test_registered_by_itself():
    """A back end may do handshake and registration itself, before it touches anything."""
    beside_the_guest("ram0:memfd:32M", "ram1:memfd-minor:32M", options=("--registered",))


def test_lanes():
    """With several userfaultfds, divided as the VMM's are."""
    beside_the_guest("ram0:memfd:24M", "ram1:memfd-minor:24M", "ram2:memfd:24M",
                     options=("--uffds", "3"), guest_options=("--uffds", "3"))


def test_hugetlb():
    """Huge pages, which are lost as a whole."""
    with HugePages(72):
        beside_the_guest("ram0:hugetlb:32M", "ram1:hugetlb-minor:32M", poison=3, late=1)


def test_back_end_alone():
    """The back end's accesses bring pages as the guest's do: the stream is all but off."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:4M", "ram1:memfd-minor:4M", poison=32)
        source = m.source()
        m.start("--bandwidth", "64K")
        guest = m.destination("--pause-after", "1")
        guest.wait_event("paused")
        other = back_end(m, guest, "--threads", "8")
        other.wait_event("touch-ms")
        check(m.show()["memory_remaining"] == 0, "it touched all, but not all is here")
        guest.say("go")
        other.finish()
        guest.finish()
        source.finish()
        check_alike(m, guest, other)


def test_after_completion():
    """All is here: what is lost is marked in a mapping that comes now, too."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:16M", "ram1:memfd-minor:16M", poison=64)
        source = m.source()
        m.start()
        guest = m.destination("--stay")
        guest.wait_event("state", "completed")
        other = back_end(m, guest, "--eager")
        other.finish()
        guest.say("go")
        guest.finish()
        source.finish()
        check_alike(m, guest, other)


def test_only_some_regions():
    """A back end that maps one of three regions."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:16M", "ram1:anon:16M", "ram2:memfd:16M", poison=48)
        source = m.source()
        m.start(*SLOW)
        guest = m.destination("--pause-after", "8")
        guest.wait_event("paused")
        other = back_end(m, guest, "--any-poison", regions=["ram0:memfd:16M"])
        other.wait_event("touching")
        go(bed, m, guest)
        other.finish()
        guest.finish()
        source.finish()
        check_alike(m, guest)
        check(other.value("off") == 0, "pages of the back end are off")
        check(lost_pages(other) == [p for p in lost_pages(guest) if p.startswith("ram0 ")],
              "it lost other pages than the guest")


def test_death():
    """A back end that dies, waiting and all, changes nothing for the guest; the next is served."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:32M", poison=32)
        source = m.source()
        m.start(*SLOW)
        guest = m.destination("--pause-after", "8")
        guest.wait_event("paused")
        for i in range(9):  # more than there is room for at a time
            other = back_end(m, guest, "--pause-after", "4", name=f"back-end{i}")
            other.wait_event("paused")
            check(any("mapping0-uffd0" in n for n in bed.stored()), str(bed.stored()))
            other.kill(signal.SIGKILL)
            wait_until("it is forgotten", lambda: not any("mapping" in n for n in bed.stored()))
        last = back_end(m, guest, name="last")
        last.wait_event("touching")
        go(bed, m, guest)
        last.finish()
        guest.finish()
        source.finish()
        check_alike(m, guest, last)


def test_eight_at_once():
    """As many as there is room for; one more is told so."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:8M", poison=16)
        source = m.source()
        m.start(*SLOW)
        guest = m.destination("--pause-after", "8")
        guest.wait_event("paused")
        others = [back_end(m, guest, "--threads", "1", "--pause-after", "4", name=f"back-end{i}")
                  for i in range(8)]
        for other in others:
            other.wait_event("paused")
        ninth = back_end(m, guest, name="ninth")
        check(ninth.popen.wait(30) == 5, "a ninth was not refused")
        check("8 processes map the memory" in ninth.log_text(), ninth.log_text()[-500:])
        go(bed, m, guest, *others)
        for other in others:
            other.finish()
        guest.finish()
        source.finish()
        check_alike(m, guest, *others)


def killed_with(*regions, options=(), kills=4):
    with SupervisedBed(FAST) as bed:
        m = bed.migration(*regions, poison=48, late=4)
        source = m.source("--read-poison")
        m.start(*SLOW)
        guest = m.destination("--pause-after", "8", *options)
        guest.wait_event("paused")
        other = back_end(m, guest, "--pause-after", "8", *options)
        other.wait_event("paused")
        source.say("late")
        for i in range(kills):
            bed.kill_service()
            if i == 1:
                guest.say("go")
                other.say("go")
            bed.start_service()
        go(bed, m)
        other.finish()
        guest.finish()
        source.finish()
        check_alike(m, guest, other)
        wait_until("the store has only the record and the ledger", lambda: not any(
            "mapping" in n for n in bed.stored()))


def test_killed():
    """The daemon dies: the next one serves both."""
    killed_with("ram0:memfd:32M", "ram1:memfd-minor:32M")


def test_killed_lanes():
    """The same with a lane each."""
    killed_with("ram0:memfd:24M", "ram1:memfd-minor:24M", options=("--uffds", "2"))


def test_died_together():
    """A back end that dies while no daemon is there is not waited for by the next."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:16M", poison=16)
        source = m.source()
        m.start(*SLOW)
        guest = m.destination("--pause-after", "8")
        guest.wait_event("paused")
        other = back_end(m, guest, "--pause-after", "8")
        other.wait_event("paused")
        bed.kill_service()
        other.kill(signal.SIGKILL)
        bed.start_service()
        wait_until("it is forgotten", lambda: not any("mapping" in n for n in bed.stored()))
        go(bed, m, guest)
        guest.finish()
        source.finish()
        check_alike(m, guest)


def refused(m, guest, text, *options, regions=None, name):
    other = back_end(m, guest, *options, regions=regions, name=name)
    check(other.popen.wait(30) == 5, f"{name}: exit status {other.popen.returncode}")
    check(text in other.log_text(), f"{name}: {other.log_text()[-500:]}")


def test_refused():
    """Each with its reason; the guest and a good back end go on."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:8M", "ram1:memfd-minor:8M", "ram2:anon:8M", poison=16)
        source = m.source()
        m.start(*SLOW)
        stranger = bed.migration("ram0:memfd:8M", "ram1:memfd:8M")
        guest = m.destination("--pause-after", "8")
        guest.wait_event("paused")
        refused(m, guest, "the VMM has attached", regions=["ram0:memfd:12M"], name="longer")
        refused(m, guest, "mode", regions=["ram0:memfd-minor:8M"], name="mode")
        refused(m, guest, "needs memory_fd", regions=["ram0:anon:8M"], name="anonymous")
        refused(stranger, guest, "unknown migration", regions=["ram0:memfd:8M"], name="stranger")
        refused(m, guest, "is it the same file", "--other-file", regions=["ram0:memfd:8M"],
                name="another-file")
        go(bed, m, guest)
        guest.finish()
        source.finish()
        check_alike(m, guest)


main(test_memfd, test_memfd_minor, test_registered_by_itself, test_lanes, test_hugetlb,
     test_back_end_alone, test_after_completion, test_only_some_regions, test_death,
     test_eight_at_once, test_killed, test_killed_lanes, test_died_together, test_refused)
