# SPDX-License-Identifier: Apache-2.0
"""Poison in each of its ways: reported, found when the page is read, told late, said by the operator."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, check, main  # noqa: E402 pylint: disable=wrong-import-position


def reasons(shown):
    return {p["reason"] for p in shown["poisoned"]}


def test_reported():
    with Bed() as bed:
        shown, _, guest = bed.migration("ram0:memfd:32M", "ram1:anon:32M", poison=64).run()
        check(guest.value("lost") == 64, f"{guest.value('lost')} lost")
        check(reasons(shown) == {"reported"}, f"reasons {reasons(shown)}")


def test_found_when_read():
    with Bed() as bed:
        shown, source, _ = bed.migration("ram0:anon:64M", poison=64).run(["--read-poison"])
        check(source.value("reported") == 32, "half of it is not reported")
        check(reasons(shown) == {"reported", "read error"}, f"reasons {reasons(shown)}")


def test_found_when_a_memfd_is_read_through_the_process():
    with Bed() as bed:
        bed.migration("ram0:memfd:32M", poison=32).run(["--read-poison", "--by-process"])


def test_told_late():
    """Whichever came first, the ledger and the guest agree about every page."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:256M", "ram1:anon:256M", poison=32, late=32)
        _, source, guest = m.run(["--read-poison"], late=True)
        print(f"   {len(source.all('late-reported'))} told late, {guest.value('lost-late')} lost")


def test_told_late_before_the_page_came():
    """While the stream is held off, a late page must be lost, not healthy."""
    with Bed() as bed:
        m = bed.migration("ram0:memfd:32M", "ram1:anon:32M", poison=8, late=16)
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "1", "--threads", "1")
        guest.wait_event("paused")
        source.say("late")
        for _ in range(16):
            source.wait_event("late-reported")
            source.events.pop()
        m_poisoned = 24
        from e2e import wait_until  # noqa: E402 pylint: disable=import-outside-toplevel
        wait_until("notices have arrived",
                   lambda: len(m.show()["poisoned"]) >= m_poisoned - 1)
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)
        check(guest.value("lost-late") >= 15, f"{guest.value('lost-late')} of 16 lost")


def test_said_by_the_operator():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:32M")
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "1", "--threads", "1", "--any-poison")
        guest.wait_event("paused")
        bed.ctl("poison", m.id, "0x100000+8192", "0xfff000")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        check(guest.value("lost") == 3, f"{guest.value('lost')} lost instead of 3")
        check(reasons(shown) == {"operator"}, f"reasons {reasons(shown)}")


def test_operator_on_the_source():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:32M")
        source = m.source()
        bed.ctl("poison", m.id, "0x0+4096", on_source=True)
        m.start()
        guest = m.destination("--any-poison")
        guest.finish()
        source.finish()
        m.check_ledger(guest)
        check(guest.all("lost-page") == ["ram0 0"], f"lost {guest.all('lost-page')}")


main(test_reported, test_found_when_read, test_found_when_a_memfd_is_read_through_the_process,
     test_told_late, test_told_late_before_the_page_came, test_said_by_the_operator,
     test_operator_on_the_source)
