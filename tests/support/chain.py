# SPDX-License-Identifier: Apache-2.0
"""Three hosts on one machine: a guest that goes on from B to C while its memory is still on
its way from A to B."""
from e2e import DESTINATION_NAME, Proxy, check

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
SEED = 20261


class Chain:
    """A: the first bed's agent. B: its daemon, and the second bed's agent. C: that one's
    daemon. The guest stands still on B, exported and frozen, when this is made."""

    def __init__(self, first, second, *regions, poison=24, late=0, source_options=(),
                 destination_options=(), start_options=(), bandwidth="64K", touched=60, on_c=None,
                 before_export=None):
        self.first, self.second = first, second
        self.proxy = Proxy(first)
        self.ab = first.migration(*regions, poison=poison, late=late, seed=SEED, name="ab")
        self.bc = second.migration(*(on_c or regions), poison=poison, late=late, seed=SEED,
                                   name="bc")
        self.a = self.ab.source(*source_options)
        self.ab.start("--bandwidth", bandwidth, *start_options, source=self.proxy.address)
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
        self.first.ctl("set-limits", self.ab.id, "--bandwidth", "0", status=None)  # or ended

    @staticmethod
    def lost(migration, on_source=False):
        return {(p["region"], p["offset"] + i) for p in migration.show(on_source)["poisoned"]
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
        check(self.ab.show()["state"] == "completed", "B's own migration did not complete")
        check(self.lost(self.ab) == self.lost(self.bc), "B and C do not agree on what is lost")
        return shown
