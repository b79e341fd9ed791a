# SPDX-License-Identifier: Apache-2.0
"""A chain of three hosts: the guest leaves host B for C while its memory is still coming
from A. What is missing on B is fetched from A, what is lost on A or B is lost on C, and
what the guest wrote on B is what C gets; never zeros, and never A's version.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from chain import FAST, Chain  # noqa: E402 pylint: disable=wrong-import-position
from e2e import Bed, HugePages, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position


def check_chain(*regions, source_options=(), destination_options=(), on_c=None, late=0, **more):
    """The guest on C touches all while nearly everything is still on A."""
    with Bed(FAST) as first, Bed(FAST) as second:
        chain = Chain(first, second, *regions, source_options=source_options, late=late,
                      destination_options=destination_options, on_c=on_c, **more)
        missing = chain.missing_on_b()
        check(missing * 2 > chain.ab.show()["memory_total"], f"only {missing} missing on B")
        chain.start()
        chain.c.wait_event("touching")
        if late:
            chain.a.say("late")
        # C's guest gets pages while B's stream brings next to nothing.
        wait_until("C's faults are answered", lambda: (
            chain.bc.show()["memory_processed"] > 1 << 20 or chain.c.popen.poll() is not None))
        chain.open_wide()
        shown = chain.finish()
        check(shown["poisoned"], "nothing was lost")
        reasons = {p["reason"] for p in chain.bc.show(on_source=True)["poisoned"]}
        check(reasons == {"inherited"}, f"B's agent takes them for {reasons}")


def test_anonymous():
    check_chain("ram0:anon:32M", source_options=["--read-poison"])


def test_memfd():
    check_chain("ram0:memfd:32M")


def test_minor():
    check_chain("ram0:memfd-minor:32M")


def test_several_regions_and_lanes():
    check_chain("ram0:memfd:16M", "ram1:anon:16M", "ram2:memfd-minor:16M",
                source_options=["--read-poison"], destination_options=["--uffds", "3"], late=8)


def test_hugetlb():
    with HugePages(48):
        check_chain("ram0:hugetlb:32M", poison=3, touched=1)


def test_hugetlb_minor():
    with HugePages(48):
        check_chain("ram0:hugetlb-minor:32M", poison=3, touched=1)


main(test_anonymous, test_memfd, test_minor, test_several_regions_and_lanes, test_hugetlb,
     test_hugetlb_minor)
