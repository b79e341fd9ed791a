# SPDX-License-Identifier: Apache-2.0
"""Other kinds of memory: huge pages and MINOR mode. Reported, without goals."""
import mmap
import pathlib

from bed import GIB, MIB, BenchBed, spinners
from e2e import HugePages, Skip
from rounds import Figure, case


MAP_HUGETLB, HUGE_SHIFT = 0x40000, 26  # linux/mman.h


class WarmHugePages(HugePages):
    """Free 2 MiB pages whose first touch costs no extra: see floor/warm.c."""

    SHIFT = 21

    def __enter__(self):
        super().__enter__()
        size = self.count << self.SHIFT
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB | self.SHIFT << HUGE_SHIFT
        with mmap.mmap(-1, size, flags=flags) as pages:
            for at in range(0, size, 1 << self.SHIFT):
                pages[at] = 1
        return self


class GiganticPages(WarmHugePages):
    """Free 1 GiB pages: only a machine with much unfragmented memory has them."""

    PATH = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-1048576kB")
    SHIFT = 30

    def __enter__(self):
        try:
            return super().__enter__()
        except Skip:
            raise Skip(f"no {self.count} free 1 GiB huge pages: boot with "
                       f"hugepagesz=1G hugepages={self.count}") from None


def fault_and_stream(samples, **options):
    """Fault latency with the stream held off, then the stream's rate."""
    with spinners(), BenchBed() as bed:
        guest = bed.held_off(**options)
        # A unit that the stream had begun before it was held off may come first.
        faults = guest.touch(samples, warmup=0)
        guest.end()
    with BenchBed() as bed:
        guest = bed.guest(**options)
        guest.begin()
        seconds = guest.finish()
        guest.verify()
    return {"p99 us": faults["p99_us"], "max us": faults["max_us"], "faults/s": faults["rate"],
            "faults": faults["n"], "stream MiB/s": options["size"] / MIB / seconds}, faults


@case("hugetlb-2m", Figure("hugetlb-2m", "fault p50, 2 MiB pages", unit="us"),
      Figure("hugetlb-2m-minor", "fault p50, 2 MiB pages in MINOR mode", unit="us"), spin=False)
def hugetlb_2m(context):
    size, samples = context.pick(512, 256) * MIB, context.pick(120, 60)
    options = {"size": size, "source_memory": "memfd"}
    with WarmHugePages(size // (2 * MIB)):
        values, faults = fault_and_stream(samples, memory="hugetlb-2m", **options)
        more, minor_faults = fault_and_stream(samples, memory="hugetlb-2m-minor", **options)
    return {"hugetlb-2m": faults["p50_us"], "hugetlb-2m-minor": minor_faults["p50_us"], **values,
            **{f"MINOR {name}": value for name, value in more.items()}}


@case("hugetlb-1g", Figure("hugetlb-1g", "fault p50, 1 GiB pages", unit="us"), spin=False)
def hugetlb_1g(context):
    with GiganticPages(2):
        values, faults = fault_and_stream(1, size=2 * GIB, memory="hugetlb-1g",
                                          source_memory="memfd")
    return {"hugetlb-1g": faults["p50_us"], **values}


@case("minor", Figure("minor", "fault p50, MINOR mode", unit="us"), spin=False)
def minor(context):
    values, faults = fault_and_stream(context.pick(3000, 1500),
                                      size=context.pick(1024, 512) * MIB, memory="memfd-minor")
    return {"minor": faults["p50_us"], **values}
