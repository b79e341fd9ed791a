# SPDX-License-Identifier: Apache-2.0
"""The link breaks in the middle: faults wait, nothing is lost, nothing comes twice."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, Proxy, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}


def test_link_cut_often():
    with Bed(FAST) as bed:
        proxy = Proxy(bed)
        m = bed.migration("ram0:memfd:128M", "ram1:anon:128M", poison=64, late=8)
        source = m.source("--read-poison")
        m.start("--bandwidth", "100M", source=proxy.address)
        guest = m.destination()
        guest.wait_event("touching")
        source.say("late")
        cuts = 0
        for target in range(10, 80, 10):
            shown = wait_until("progress", lambda t=target: (
                lambda s: s if s["state"] == "completed" or
                s["memory_processed"] * 100 >= t * s["memory_total"] else None)(m.show()))
            if shown["state"] == "completed":
                break
            cuts += proxy.cut() > 0
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        check(cuts > 0, "the link was never cut")
        check(shown["reconnects"] >= 1, f"{shown['reconnects']} reconnects")
        print(f"   {cuts} cuts, {shown['reconnects']} reconnects")


def test_paused_while_the_source_is_out_of_reach():
    with Bed(FAST) as bed:
        proxy = Proxy(bed)
        m = bed.migration("ram0:memfd:64M", poison=16)
        source = m.source()
        m.start("--bandwidth", "4K", source=proxy.address)
        guest = m.destination("--pause-after", "100", "--threads", "2")
        guest.wait_event("paused")
        proxy.refusing = True
        proxy.cut()
        shown = m.wait_state("postcopy-paused", "postcopy-recover")
        check(shown["state_text"], "nobody says why it is paused")
        guest.say("go")  # faults from here on wait
        check(m.show()["state"] != "completed", "completed without a source")
        proxy.refusing = False
        bed.ctl("recover", m.id, status=None)
        m.wait_state("postcopy-active", "completed")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        check(shown["downtime_us"] > 0, "the pause does not count")


def test_limits_hold_after_recovery():
    with Bed(FAST) as bed:
        proxy = Proxy(bed)
        m = bed.migration("ram0:memfd:64M")
        source = m.source()
        m.start("--bandwidth", "64K", source=proxy.address)
        guest = m.destination("--pause-after", "1", "--threads", "1")
        guest.wait_event("paused")
        proxy.cut()
        wait_until("connected again", lambda: m.show()["reconnects"] >= 1 and
                   m.show()["state"] == "postcopy-active")
        before = m.show()
        check(before["bandwidth"] == 65536, f"bandwidth {before['bandwidth']}")
        first = wait_until("stream goes on", lambda: (
            lambda s: s if s["memory_processed"] > before["memory_processed"] else None)(m.show()))
        check(first["memory_remaining"] > first["memory_total"] // 2, "the limit did not hold")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


def test_recover_at_another_address():
    with Bed(FAST) as bed:
        first, second = Proxy(bed), Proxy(bed)
        m = bed.migration("ram0:anon:64M", poison=16)
        source = m.source()
        m.start("--bandwidth", "4K", source=first.address)
        guest = m.destination("--pause-after", "10")
        guest.wait_event("paused")
        first.close()
        m.wait_state("postcopy-paused", "postcopy-recover")
        bed.ctl("recover", m.id, "--source", second.address)
        m.wait_state("postcopy-active")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        check(m.check_ledger(guest)["peer"] == second.address, "the peer is still the old one")


main(test_link_cut_often, test_paused_while_the_source_is_out_of_reach,
     test_limits_hold_after_recovery, test_recover_at_another_address)
