# SPDX-License-Identifier: Apache-2.0
"""Somebody dies in the middle: the other side notices, and no page turns into zeros."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}


def in_the_middle(bed, *regions, poison=16, start=(), destination=(), seed=None):
    m = bed.migration(*regions, poison=poison, seed=seed)
    source = m.source()
    m.start("--bandwidth", "4K", *start)
    guest = m.destination("--pause-after", "200", "--threads", "2", *destination)
    guest.wait_event("paused")
    return m, source, guest


def test_agent_killed_faults_wait_then_another_agent_goes_on():
    """The state is paused and policy hold keeps it so; a new agent with the same export serves on."""
    with Bed(FAST) as bed:
        m, source, guest = in_the_middle(bed, "ram0:memfd:64M", "ram1:anon:32M")
        bed.agent.kill()
        m.wait_state("postcopy-paused", "postcopy-recover")
        guest.say("go")
        source.finish(4)  # its agent has gone
        bed.agent = bed.start_agent()
        again = m.source()
        bed.ctl("recover", m.id, status=None)
        m.wait_state("postcopy-active", "completed")
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        again.finish()
        m.check_ledger(guest)


def test_source_guest_killed_memfd_goes_on():
    """The agent holds the memfd: the dead VMM is not needed."""
    with Bed(FAST) as bed:
        m, source, guest = in_the_middle(bed, "ram0:memfd:64M")
        source.kill()
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        check(m.check_ledger(guest)["state"] == "completed", "not completed")


def test_source_guest_killed_anonymous_pauses():
    """Its memory has gone with it: faults wait, nothing becomes zeros."""
    with Bed(FAST) as bed:
        m, source, guest = in_the_middle(bed, "ram0:anon:64M")
        source.kill()
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        shown = m.wait_state("postcopy-paused", "postcopy-recover", "failed")
        check(shown["state"] != "failed", f"failed: {shown['state_text']}")
        check(shown["memory_remaining"] > 0, "nothing is missing")
        check(guest.popen.poll() is None, "the guest has ended")
        bed.ctl("cancel", m.id, "--force")
        guest.finish(4)
        check(not guest.all("wrong-page"), f"wrong pages: {guest.all('wrong-page')}")


def test_vmm_killed_others_undisturbed():
    with Bed(FAST) as bed:
        first, first_source, first_guest = in_the_middle(bed, "ram0:memfd:64M", "ram1:anon:16M")
        other, other_source, other_guest = in_the_middle(bed, "ram0:anon:64M")
        first_guest.kill()
        shown = first.wait_state("failed", "cancelled")
        check(shown["state_text"], "nobody says why it ended")
        print(f"   {shown['state']}: {shown['state_text']}")
        told = first.wait_state("frozen", on_source=True)
        check("gave up: VMM exited" in told["state_text"], told["state_text"])
        check("gave up" in first_source.wait_event("state", "frozen the destination"), "not told")
        first_source.say("withdraw")  # nobody depends on it any more
        check(first_source.wait_event("withdraw").startswith("done"), str(first_source.events))
        bed.ctl("set-limits", other.id, "--bandwidth", "0")
        other_guest.say("go")
        other_guest.finish()
        other_source.finish()
        check(other.check_ledger(other_guest)["reconnects"] == 0, "the other one was disturbed")


def waiting_threads(pid):
    """Threads of the process that sleep in a userfaultfd fault."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum((t / "wchan").read_text() == "handle_userfault" for t in tasks)


def test_daemon_killed_the_guest_waits():
    """libpostcopy holds the userfaultfds: threads wait at missing pages, none reads zeros."""
    with Bed(FAST) as bed:
        _, source, guest = in_the_middle(bed, "ram0:memfd:64M", "ram1:anon:32M")
        bed.daemon.kill()
        guest.wait_event("gone")
        guest.say("go")
        wait_until("both threads wait", lambda: waiting_threads(guest.popen.pid) == 2)
        check(guest.popen.poll() is None, "the guest has ended")
        guest.kill()
        guest.reader.join()
        while guest._next(1):  # pylint: disable=protected-access # what it said before it died
            pass
        check(not guest.all("wrong-page"), f"wrong pages: {guest.all('wrong-page')}")
        source.kill()


def test_two_migrations_at_once():
    with Bed() as bed:
        both = [bed.migration("ram0:memfd:96M", "ram1:anon:32M", poison=32, late=8)
                for _ in range(2)]
        sources = [m.source("--read-poison") for m in both]
        for m in both:
            m.start()
        guests = [m.destination() for m in both]
        for source in sources:
            source.say("late")
        for m, source, guest in zip(both, sources, guests):
            guest.finish()
            source.finish()
            m.check_ledger(guest)


main(test_agent_killed_faults_wait_then_another_agent_goes_on,
     test_source_guest_killed_memfd_goes_on, test_source_guest_killed_anonymous_pauses,
     test_vmm_killed_others_undisturbed, test_daemon_killed_the_guest_waits,
     test_two_migrations_at_once)
