# SPDX-License-Identifier: Apache-2.0
"""One fault, and many at once, with the stream held off."""
from bed import FIRST_CPU, MIB, ONE_CPU, BenchBed, floor, pinned
from rounds import Figure, case


@case("fault-1",
      Figure("fault-1", "fault p50, 1 thread, one CPU / (local fault + TLS ping)", "<=", 1.20))
def fault_1(context):
    samples = context.pick(3000, 1500)
    with pinned(FIRST_CPU):
        fault = floor("fault", memory=context.memory, samples=samples)
        ping = floor("ping", pki=context.pki, samples=samples)
        with BenchBed(ONE_CPU) as bed:
            ours = bed.held_off(size=512 * MIB, memory=context.memory).touch(samples)
    return {"fault-1": ours["p50_us"] / (fault["p50_us"] + ping["p50_us"]),
            "fault p50 us": ours["p50_us"], "p99 us": ours["p99_us"],
            "local fault p50 us": fault["p50_us"], "p99 us of it": fault["p99_us"],
            "ping p50 us": ping["p50_us"], "ping p99 us": ping["p99_us"]}


@case("faults-16",
      Figure("faults-16", "pages/s with 16 faulting threads / raw loop", ">=", 0.90))
def faults_16(context):
    threads, samples = 16, context.pick(8000, 2000)
    raw = floor("faults", pki=context.pki, memory=context.memory, threads=threads,
                samples=samples)
    with BenchBed() as bed:
        ours = bed.held_off(size=512 * MIB, memory=context.memory).touch(samples, threads)
    return {"faults-16": ours["rate"] / raw["rate"], "pages/s": ours["rate"],
            "p50 us": ours["p50_us"], "p99 us": ours["p99_us"], "raw pages/s": raw["rate"],
            "raw p50 us": raw["p50_us"], "raw p99 us": raw["p99_us"]}
