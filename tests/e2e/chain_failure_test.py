# SPDX-License-Identifier: Apache-2.0
"""The middle of a chain of hosts fails, or the first one does: what is here is served, the
rest waits, and what will never come is lost on the last host, too. Never zeros."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from chain import FAST, Chain  # noqa: E402 pylint: disable=wrong-import-position
from e2e import PATIENCE, Bed, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

KINDS = ("ram0:memfd:16M", "ram1:anon:16M", "ram2:memfd-minor:16M")
AGENT = "postcopy-sourced"


def processed(m):
    return m.show()["memory_processed"]


def cut(chain):
    """A is out of reach from now on; what B has by then."""
    chain.proxy.refusing = True
    chain.proxy.cut()
    chain.ab.wait_state("postcopy-paused", "postcopy-recover")
    return processed(chain.ab)


def back(chain):
    chain.proxy.refusing = False
    chain.first.ctl("recover", chain.ab.id, status=None)
    chain.ab.wait_state("postcopy-active", "completed")
    chain.open_wide()


def mostly_here(chain):
    """Let all but some of it come to B, which is in no hurry with the rest."""
    total = chain.ab.show()["memory_total"]
    chain.first.ctl("set-limits", chain.ab.id, "--bandwidth", "20M")
    wait_until("most is on B", lambda: processed(chain.ab) * 8 > total * 6)
    chain.first.ctl("set-limits", chain.ab.id, "--bandwidth", "4K")


def test_first_host_out_of_reach_and_back():
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, *KINDS, source_options=["--read-poison"])
        mostly_here(chain)
        here = cut(chain)
        chain.start()
        # C's stream brings what is on B, and passes over what is not.
        wait_until("C has what B has", lambda: processed(chain.bc) >= here)
        check(chain.bc.show()["state"] == "postcopy-active", "C has lost B")
        check(processed(chain.bc) < chain.bc.show()["memory_total"], "C has what nobody had")
        back(chain)
        chain.finish()


def test_faults_for_what_is_here_pass_those_that_wait():
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, *KINDS, poison=0)
        mostly_here(chain)
        cut(chain)
        # Each thread stops at the first page that is not on B; others pass it by.
        chain.start("--threads", 64, start_options=["--bandwidth", "4K"])
        chain.c.wait_event("touching")
        wait_until("faults are answered", lambda: processed(chain.bc) > 150 * 4096)
        back(chain)
        second.ctl("set-limits", chain.bc.id, "--bandwidth", "0", status=None)
        chain.finish()


def test_daemon_in_the_middle_is_killed():
    with SupervisedBed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, *KINDS, source_options=["--read-poison"])
        chain.start()
        chain.c.wait_event("touching")
        for _ in range(3):
            before = processed(chain.bc)
            wait_until("C gets pages", lambda b=before: processed(chain.bc) > b + (256 << 10))
            first.kill_service()
            # C's guest waits in faults that nobody on B can serve.
            first.start_service()
            chain.ab.wait_state("postcopy-active")
        check(chain.missing_on_b() > 0, "all had come before")
        chain.open_wide()
        chain.finish()


def test_agent_in_the_middle_is_killed():
    with Bed(FAST) as first, SupervisedBed(FAST, supervised=(AGENT,)) as second:
        chain = Chain(first, second, *KINDS, source_options=["--read-poison"])
        chain.start()
        chain.c.wait_event("touching")
        for _ in range(3):
            before = processed(chain.bc)
            wait_until("C gets pages", lambda b=before: processed(chain.bc) > b + (256 << 10))
            second.restart_service(AGENT)
        check(chain.missing_on_b() > 0, "all had come before")
        chain.open_wide()
        chain.finish()


def test_agent_is_killed_after_all_had_come():
    """The new agent hears again that all is here, and what of it is lost."""
    with Bed(FAST) as first, SupervisedBed(FAST, supervised=(AGENT,)) as second:
        chain = Chain(first, second, *KINDS, bandwidth="0")
        chain.b.wait_event("inbound-state", "completed")
        second.restart_service(AGENT)
        chain.start()
        chain.finish()


def test_completed_before_the_export():
    """Poison that came to B is told ahead: C knows it before any fault."""
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, *KINDS, bandwidth="0",
                      before_export=lambda c: c.ab.wait_state("completed"))
        chain.a.finish()
        wait_until("B's agent has the list", lambda: (
            chain.lost(chain.ab) == chain.lost(chain.bc, on_source=True)))
        chain.start()
        chain.finish()
        check({p["reason"] for p in chain.bc.show(on_source=True)["poisoned"]} == {"inherited"},
              "not inherited")


def test_first_host_lost_for_good():
    """B's policy declares what is missing lost; so it is on C."""
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, *KINDS, start_options=["--lost-policy", "poison",
                                                            "--lost-deadline", "1s"])
        mostly_here(chain)
        chain.start("--any-poison")
        chain.c.wait_event("touching")
        chain.a.kill()
        first.agent.kill()
        chain.c.finish()
        chain.b.finish()
        check(chain.c.value("off") == 0, "pages are off")
        check(chain.c.value("lost") > 24, "what A took along reads as something")
        chain.bc.check_ledger_counts(chain.c)
        check(chain.lost(chain.ab) == chain.lost(chain.bc), "B and C do not agree")


def test_inbound_migration_is_cancelled():
    """Nobody will bring what is missing: it is lost on C, and what is here is served."""
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, *KINDS)
        mostly_here(chain)
        missing = chain.missing_on_b() // 4096
        chain.start("--any-poison", "--threads", 32)
        chain.c.wait_event("touching")
        first.ctl("cancel", chain.ab.id, "--force")
        chain.b.wait_event("inbound-state", "cancelled")
        chain.c.finish()
        chain.b.finish()
        check(chain.c.value("off") == 0, "pages are off")
        lost = chain.c.value("lost")
        check(0 < lost <= missing + 24, f"{lost} lost on C, {missing} were missing on B")
        chain.bc.check_ledger_counts(chain.c)


def test_guest_in_the_middle_dies():
    """Its memory file outlives it, but nobody knows any more what of it is there."""
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, "ram0:memfd:32M")
        chain.start("--any-poison", start_options=["--lost-policy", "poison",
                                                   "--lost-deadline", "1s"])
        chain.c.wait_event("touching")
        wait_until("C gets pages", lambda: processed(chain.bc) > 256 << 10)
        chain.b.kill()
        wait_until("the export has failed", lambda: (
            chain.bc.show(on_source=True)["state"] == "failed"))
        chain.c.finish()
        check(chain.c.value("off") == 0, "pages are off")
        check(chain.c.value("lost") > 100, "what nobody had reads as something")


def test_inbound_handle_cannot_be_closed():
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, "ram0:memfd:16M", poison=4)
        chain.b.say("close-inbound")
        said = chain.b.wait_event("close-inbound", timeout=PATIENCE)
        check("busy" in said.lower(), f"close said {said}")
        chain.start()
        chain.open_wide()
        chain.finish()


main(test_first_host_out_of_reach_and_back, test_faults_for_what_is_here_pass_those_that_wait,
     test_daemon_in_the_middle_is_killed, test_agent_in_the_middle_is_killed,
     test_agent_is_killed_after_all_had_come, test_completed_before_the_export,
     test_first_host_lost_for_good, test_inbound_migration_is_cancelled,
     test_guest_in_the_middle_dies, test_inbound_handle_cannot_be_closed)
