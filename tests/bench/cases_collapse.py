# SPDX-License-Identifier: Apache-2.0
"""Huge pages back after a migration: random reads before it, after it, and after the collapse."""
import json
import pathlib

from bed import MIB, BenchBed, Guest
from e2e import Skip, check
from rounds import Figure, case


class HugeGuest(Guest):
    """In transparent huge pages on the source, able to be on the destination."""

    def _start(self, role, sock, memory, options):
        return super()._start(role, sock, memory, [*options, "--huge"])

    def random(self, process, n_reads):
        process.say(f"random {n_reads}")
        return json.loads(process.next("random"))

    def collapse(self):
        self.destination.say("collapse")
        return json.loads(self.destination.next("collapsed", timeout=120))


def need_huge_pages():
    if not pathlib.Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").exists():
        raise Skip("this kernel has no transparent huge pages")


def reads(context, memory):
    """ns a read, and the bytes in huge pages, at the three moments."""
    need_huge_pages()
    size, n = context.pick(1024, 512) * MIB, context.pick(4000000, 2000000)
    with BenchBed() as bed:
        guest = HugeGuest(bed, size=size, memory=memory)
        guest.prepare()
        before = guest.random(guest.source, n)
        if before["huge_bytes"] < size // 2:
            raise Skip(f"only {before['huge_bytes'] // MIB} of {size // MIB} MiB are in huge "
                       "pages on the source: too little free memory in one piece")
        guest.freeze()
        guest.wait_active()
        guest.finish()
        after = guest.random(guest.destination, n)
        collapsed = guest.collapse()
        again = guest.random(guest.destination, n)
        guest.verify()
    check(collapsed["huge"] + collapsed["failed"] == collapsed["total"], str(collapsed))
    return {f"{memory}-small": after["ns"] / before["ns"],
            f"{memory}-collapsed": again["ns"] / before["ns"],
            "before ns": before["ns"], "after ns": after["ns"], "collapsed ns": again["ns"],
            "huge before MiB": before["huge_bytes"] / MIB,
            "huge after MiB": after["huge_bytes"] / MIB,
            "huge collapsed MiB": again["huge_bytes"] / MIB,
            "collapse s": collapsed["seconds"]}


SMALL = "random reads after the migration / before it in huge pages, "
COLLAPSED = "random reads after the collapse / before the migration, "


@case("collapse-anon", Figure("anon-small", SMALL + "anonymous"),
      Figure("anon-collapsed", COLLAPSED + "anonymous"), spin=False)
def collapse_anon(context):
    return reads(context, "anon")


@case("collapse-memfd", Figure("memfd-small", SMALL + "memfd"),
      Figure("memfd-collapsed", COLLAPSED + "memfd"), spin=False)
def collapse_memfd(context):
    return reads(context, "memfd")
