# SPDX-License-Identifier: Apache-2.0
"""The operator's and the policy's ends: cancel, and what happens when the source is lost for good."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms",
                       "completion_timeout": "1s"}}


def in_the_middle(bed, *start, destination=()):
    m = bed.migration("ram0:memfd:32M", "ram1:anon:32M", poison=16)
    source = m.source()
    m.start("--bandwidth", "4K", *start)
    guest = m.destination("--pause-after", "200", "--threads", "2", *destination)
    guest.wait_event("paused")
    return m, source, guest


def test_cancel_needs_force_in_the_middle():
    with Bed(FAST) as bed:
        m, source, guest = in_the_middle(bed)
        text = bed.ctl("cancel", m.id, status=1)
        check("force" in text, f"refused without a remedy: {text}")
        bed.ctl("cancel", m.id, "--force")
        check(m.wait_state("cancelled")["state_text"], "nobody says why")
        guest.finish(4)
        check(any(v.startswith("cancelled") for v in guest.all("state")), str(guest.all("state")))
        told = m.wait_state("frozen", on_source=True)
        check("by an operator" in told["state_text"], told["state_text"])
        check(source.popen.poll() is None, "the source guest may still be needed")


def test_cancel_before_attach():
    with Bed(FAST) as bed:
        m = bed.migration("ram0:memfd:4M")
        m.start()
        bed.ctl("cancel", m.id)
        m.wait_state("cancelled")


def test_lost_policy_poison():
    """After the deadline what is missing is lost, by name in the ledger, and never zeros."""
    with Bed(FAST) as bed:
        m, _, guest = in_the_middle(bed, "--lost-policy", "poison", "--lost-deadline", "500ms",
                                    destination=["--any-poison"])
        bed.agent.kill()
        guest.say("go")
        guest.finish()
        shown = m.check_ledger_counts(guest)
        check(guest.value("lost") > 10000, f"only {guest.value('lost')} lost")
        check("source lost" in {p["reason"] for p in shown["poisoned"]}, "reason is not told")


def test_lost_policy_kill():
    with Bed(FAST) as bed:
        m, _, guest = in_the_middle(bed, "--lost-policy", "kill", "--lost-deadline", "500ms")
        bed.agent.kill()  # and the guest, at its deadline, whatever it does
        shown = m.wait_state("failed")
        check(shown["state_text"], "nobody says why")
        check(guest.popen.wait(30) != 0, "the guest ended well")


def test_lost_policy_is_announced():
    """An operator sees that the policy will act, and when."""
    with Bed(FAST) as bed:
        m, _, _ = in_the_middle(bed, "--lost-policy", "kill", "--lost-deadline", "3600s")
        check(m.show()["lost_left_us"] == 0, "the source is there")
        bed.agent.kill()
        m.wait_state("postcopy-paused")
        left = m.show()["lost_left_us"]
        check(0 < left <= 3600 * 1000000, f"{left} us are left")
        check("lost policy in" in bed.ctl("show", m.id), "not shown to people")
        wait_until("time passes", lambda: m.show()["lost_left_us"] < left)


def test_lost_policy_hold_holds():
    with Bed(FAST) as bed:
        m, _, guest = in_the_middle(bed)
        bed.agent.kill()
        guest.say("go")
        m.wait_state("postcopy-paused")
        try:
            guest.popen.wait(2)  # longer than any deadline that somebody could have set here
        except Exception:  # pylint: disable=broad-except
            pass
        check(guest.popen.poll() is None, "the guest went on without its memory")
        check(m.show()["state"] in ("postcopy-paused", "postcopy-recover"), m.show()["state"])


def test_withdraw():
    with Bed(FAST) as bed:
        m = bed.migration("ram0:memfd:8M")
        source = m.source(freeze=False)
        source.say("withdraw")
        check(source.wait_event("withdraw").startswith("done"), "refused")
        source.finish(4)
        check(any(v.startswith("withdrawn") for v in source.all("state")), str(source.events))


def test_withdraw_refused_while_a_destination_depends_on_it():
    with Bed(FAST) as bed:
        m, source, guest = in_the_middle(bed)
        source.say("withdraw")
        check("busy" in source.wait_event("withdraw").lower(), str(source.events))
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


main(test_cancel_needs_force_in_the_middle, test_cancel_before_attach, test_lost_policy_poison,
     test_lost_policy_kill, test_lost_policy_is_announced, test_lost_policy_hold_holds, test_withdraw,
     test_withdraw_refused_while_a_destination_depends_on_it)
