# SPDX-License-Identifier: Apache-2.0
"""Many migrations, what one holds in memory, and guests that grow."""
import re
import statistics

from bed import FIRST_CPU, GIB, MIB, ONE_CPU, BenchBed, available_bytes, pinned, spinners
from e2e import Skip
from rounds import Figure, case

MIGRATIONS = 64
PACE_US = 20000
# A page's state, and everything else of one migration.
BYTES_A_PAGE, BYTES_A_MIGRATION = 1, 4 * MIB


def need_memory(what, size):
    if available_bytes() < size + GIB:
        raise Skip(f"{what}: needs {size // MIB} MiB of memory, "
                   f"{available_bytes() // MIB} are available")


def stream_all(guests, pace_us=0, threads=1):
    """Freeze all at once; seconds from the first that began to the last that completed."""
    for guest in guests:
        guest.freeze()
    for guest in guests:
        guest.wait_active()
        if pace_us:
            guest.start_touching(threads=threads, pace_us=pace_us)
    ends = [guest.active_ns / 1e9 + guest.finish() for guest in guests]
    return max(ends) - min(guest.active_ns for guest in guests) / 1e9


def stream_rate(n_guests, size, memory, pace_us=0, threads=1):
    """MiB/s of so many guests together, and what each has measured of its faults."""
    with BenchBed() as bed:
        guests = [bed.guest(size=size, memory=memory) for _ in range(n_guests)]
        for guest in guests:
            guest.prepare()
        seconds = stream_all(guests, pace_us, threads)
        touched = [guest.touched() for guest in guests] if pace_us else []
    return n_guests * size / MIB / seconds, touched


@case("many",
      Figure("many-rate", "64 migrations at once: total rate / one migration", ">=", 0.85),
      Figure("many-rate-faults", "the same, 64 threads faulting on either side", ">=", 0.85),
      Figure("many-p99", "the worst migration's fault p99 / the median one's", "<=", 10),
      spin=False, gib=10)
def many(context):
    """The one has as much memory as the many, and as many threads that fault."""
    size, memory = context.pick(64, 16) * MIB, context.memory
    need_memory("many", 2 * MIGRATIONS * size)
    one, _ = stream_rate(1, MIGRATIONS * size, memory)
    together, _ = stream_rate(MIGRATIONS, size, memory)
    one_faults, _ = stream_rate(1, MIGRATIONS * size, memory, PACE_US, MIGRATIONS)
    together_faults, touched = stream_rate(MIGRATIONS, size, memory, PACE_US)
    p99 = [t["p99_us"] for t in touched]
    return {"many-rate": together / one, "many-rate-faults": together_faults / one_faults,
            "many-p99": max(p99) / statistics.median(p99), "together MiB/s": together,
            "one MiB/s": one, "together with faults MiB/s": together_faults,
            "one with faults MiB/s": one_faults, "median p99 us": statistics.median(p99),
            "worst p99 us": max(p99), "faults": sum(t["n"] for t in touched)}


def peak_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) * 1024


def peak_with(context, n_migrations, size):
    """The daemon's largest resident size while so many are streamed to at once."""
    with BenchBed() as bed:
        guests = [bed.guest(size=size, memory=context.memory, regions=4, alias=True)
                  for _ in range(n_migrations)]
        for guest in guests:
            guest.prepare()
        stream_all(guests)
        return peak_bytes(bed.daemon.popen.pid)


@case("memory",
      Figure("memory", "memory a migration / (1 byte a guest page + 4 MiB)", "<=", 1.0), spin=False)
def memory(context):
    """By the difference between four migrations and one: what all share falls out."""
    size = context.pick(1024, 512) * MIB
    need_memory("memory", 5 * size + GIB)
    one, four = peak_with(context, 1, size), peak_with(context, 4, size)
    each = (four - one) / 3
    allowed = size / 4096 * BYTES_A_PAGE + BYTES_A_MIGRATION
    return {"memory": each / allowed, "MiB a migration": each / MIB, "allowed MiB": allowed / MIB,
            "daemon with one MiB": one / MIB, "daemon with four MiB": four / MIB,
            "guest MiB": size / MIB}


def growing_sizes(context):
    """In GiB. The source's memory is one GiB, whatever the guest's size is."""
    if context.quick:
        return 1, 2, 4
    return (1, 4, 16) if available_bytes() > 18 * GIB else (1, 2, 8)


@case("growth",
      Figure("growth-time", "seconds a GiB, largest guest / 1 GiB", "<=", 1.15),
      Figure("growth-latency", "fault p50, largest guest / 1 GiB", "<=", 1.15), spin=False,
      gib=18)
def growth(context):
    sizes = growing_sizes(context)
    need_memory("growth", (max(sizes) + 1) * GIB)
    seconds, p50, values = {}, {}, {}
    for gib in sizes:
        options = {"size": gib * GIB, "memory": context.memory, "regions": gib, "alias": True}
        # On one CPU, where latency depends least on what else the machine does.
        with spinners(), pinned(FIRST_CPU), BenchBed(ONE_CPU) as bed:
            guest = bed.held_off(**options)
            p50[gib] = guest.touch(context.pick(3000, 1500))["p50_us"]
            guest.end()
        with BenchBed() as bed:
            seconds[gib] = bed.stream_seconds(**options)
        values[f"{gib} GiB s"] = seconds[gib]
        values[f"{gib} GiB p50 us"] = p50[gib]
    most = max(sizes)
    return {"growth-time": seconds[most] / most / seconds[1], "growth-latency": p50[most] / p50[1],
            **values}
