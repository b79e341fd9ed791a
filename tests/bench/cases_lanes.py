# SPDX-License-Identifier: Apache-2.0
"""One guest split over several lanes: how many faults it serves, and where it pays."""
from bed import MIB, BenchBed
from cases_wan import SOURCE_ADDRESS, wan
from rounds import Figure, case

LANES = (1, 2, 4)
THREADS = (16, 64, 256)
# Nobody has a real-time priority.
PLAIN = ({"lanes": {"urgent_rt_priority": 0}}, {"links": {"urgent_realtime": "no"}})


def rates(context, lanes, settings):
    """Pages/s with so many threads, one after the other, of one guest."""
    faults = context.pick(24000, 8000)
    with BenchBed(*settings) as bed:
        guest = bed.held_off(size=512 * MIB, memory=context.memory, lanes=lanes, split=True)
        return {t: guest.touch(faults // t, t)["rate"] for t in THREADS}


def scale(context, name, settings=()):
    measured = {lanes: rates(context, lanes, settings) for lanes in LANES}
    values = {f"{lanes} lanes, {threads} threads, pages/s": rate
              for lanes, found in measured.items() for threads, rate in found.items()}
    for threads in THREADS:
        values[f"{name}-{threads}"] = measured[4][threads] / measured[1][threads]
    return values


@case("lanes",
      *(Figure(f"lanes-{t}", f"pages/s with {t} faulting threads, 4 lanes / 1") for t in THREADS))
def lanes_default(context):
    """Four lanes are eight threads that answer faults, of both hosts: see how many CPUs there are."""
    return scale(context, "lanes")


@case("lanes-plain",
      *(Figure(f"lanes-plain-{t}", f"the same without real-time priority, {t} threads")
        for t in THREADS))
def lanes_plain(context):
    return scale(context, "lanes-plain", PLAIN)


def lossy(context, threads, **options):
    """Faults of a guest that is busy in a quarter of its memory, 20 ms away, 1 % loss."""
    with wan(10) as (source, destination), BenchBed(source_netns=source, daemon_netns=destination,
                                                    source_host=SOURCE_ADDRESS) as bed:
        guest = bed.held_off(size=1024 * MIB, memory=context.memory, hot_percent=25, **options)
        found = guest.touch(context.pick(100, 40), threads)
        guest.end()
    return found


@case("lanes-loss",
      Figure("lanes-loss", "1 % loss, 64 threads in a quarter of the guest: p50, 4 lanes / 1"),
      Figure("lanes-loss-unstriped", "the same with one piece a lane, not stripes"), spin=False)
def lanes_loss(context):
    """A packet that is lost holds up what is behind it on its connection."""
    one = lossy(context, 64)
    striped = lossy(context, 64, lanes=4, split=True)
    whole = lossy(context, 64, lanes=4)  # four regions, a lane each
    return {"lanes-loss": striped["p50_us"] / one["p50_us"],
            "lanes-loss-unstriped": whole["p50_us"] / one["p50_us"],
            "1 lane p50 us": one["p50_us"], "striped p50 us": striped["p50_us"],
            "unstriped p50 us": whole["p50_us"], "1 lane pages/s": one["rate"],
            "striped pages/s": striped["rate"], "unstriped pages/s": whole["rate"]}
