# SPDX-License-Identifier: Apache-2.0
"""A chain of three hosts: the guest leaves host B for C while its memory is still coming
from A. What is missing on B is fetched from A, what is lost on A or B is lost on C, and
what the guest wrote on B is what C gets; never zeros, and never A's version.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import (DESTINATION_NAME, Bed, HugePages, Proxy, check, main,  # noqa: E402 pylint: disable=wrong-import-position
                 wait_until)
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
SEED = 20261


class Chain:
    """A: the first bed's agent. B: its daemon, and the second bed's agent. C: that one's
    daemon. The guest stands still on B, exported and frozen, when this is made."""

    def __init__(self, first, second, *regions, poison=24, late=0, source_options=(),
                 destination_options=(), bandwidth="64K", touched=60, on_c=None, before_export=None):
        self.first, self.second = first, second
        self.proxy = Proxy(first)
        self.ab = first.migration(*regions, poison=poison, late=late, seed=SEED, name="ab")
        self.bc = second.migration(*(on_c or regions), poison=poison, late=late, seed=SEED,
                                   name="bc")
        self.a = self.ab.source(*source_options)
        self.ab.start("--bandwidth", bandwidth, source=self.proxy.address)
        self.b = self.ab.destination(
            "--pause-after", touched, "--threads", 2, "--relay-id", self.bc.id,
            "--relay-token-file", self.bc.token, "--relay-socket", second.dir / "export.sock",
            "--relay-peer", DESTINATION_NAME, *destination_options)
        self.b.wait_event("paused")
        if before_export:
            before_export(self)
        self.b.say("export")
        self.b.wait_event("frozen")
        self.c = None

    def start(self, *options, start_options=()):
        """The guest on C, which touches everything."""
        self.bc.start(*start_options)
        self.c = self.bc.destination("--rewritten", *options)
        return self.c

    def missing_on_b(self):
        return self.ab.show()["memory_remaining"]

    def open_wide(self):
        self.first.ctl("set-limits", self.ab.id, "--bandwidth", "0")

    @staticmethod
    def lost(migration):
        return {(p["region"], p["offset"] + i) for p in migration.show()["poisoned"]
                for i in range(0, p["lost"], 4096)}

    def finish(self):
        """All of it arrives on C, and the three hosts agree."""
        self.c.finish()
        self.b.finish()
        self.a.finish()
        shown = self.bc.check_ledger(self.c)
        check(shown["state"] == "completed", f"state {shown['state']}")
        check(shown["memory_remaining"] == 0, f"remaining {shown['memory_remaining']}")
        check(self.c.value("off") == 0, "pages are off")
        return shown


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
        if not late:
            wait_until("B has completed", lambda: chain.ab.show()["state"] in
                       ("completed", "cancelled", "failed"))
        check(shown["poisoned"], "nothing was lost")
        return chain


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
    with HugePages(96):
        check_chain("ram0:hugetlb:64M", poison=4, touched=3)


def test_hugetlb_minor():
    with HugePages(96):
        check_chain("ram0:hugetlb-minor:64M", poison=4, touched=3)


main(test_anonymous, test_memfd, test_minor, test_several_regions_and_lanes, test_hugetlb,
     test_hugetlb_minor)
