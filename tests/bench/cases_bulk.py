# SPDX-License-Identifier: Apache-2.0
"""The stream, without faults and with them, and what it costs the destination."""
from bed import ALL_CPUS, FIRST_CPU, MIB, BenchBed, cpu_seconds, floor
from rounds import Figure, case

PACE_US = 300
# The two streaming threads have CPUs of their own, as on two hosts: no CPU is ever idle
# beside a spinner, so the kernel would leave both where they are, often on one.
OTHER_CPUS = ",".join(str(cpu) for cpu in sorted(ALL_CPUS - {FIRST_CPU})) or str(FIRST_CPU)
# With the right to real-time scheduling: the defaults, and the faulting vCPU's core
# for the threads that answer. Without: nobody has a priority.
REAL_TIME = ({"lanes": {"urgent_cpus": FIRST_CPU, "bulk_cpus": FIRST_CPU}},
             {"links": {"urgent_cpus": FIRST_CPU, "bulk_cpus": OTHER_CPUS}})
PLAIN = ({"lanes": {"urgent_cpus": FIRST_CPU, "bulk_cpus": FIRST_CPU, "urgent_rt_priority": 0}},
         {"links": {"urgent_cpus": FIRST_CPU, "bulk_cpus": OTHER_CPUS, "urgent_realtime": "no"}})


@case("bulk",
      Figure("bulk-1", "stream, 1 connection, no faults / raw TLS pipe", ">=", 0.85),
      Figure("bulk-2", "stream, 2 lanes / raw TLS pipe", ">=", 1.0),
      Figure("zeros", "half the pages zero / none zero", ">=", 1.6),
      Figure("cpu", "destination's CPU time / raw pipe + COPY loop", "<=", 1.1), spin=False)
def bulk(context):
    size = context.pick(2048, 512) * MIB
    pipe = floor("pipe", pki=context.pki, bytes=size)
    copy = floor("copy", pki=context.pki, bytes=size, memory=context.memory)
    rates = {}
    for name, options in (("1", {}), ("2", {"lanes": 2}), ("zeros", {"zero_percent": 50})):
        with BenchBed() as bed:
            guest = bed.guest(size=size, memory=context.memory, **options)
            guest.prepare()
            before = cpu_seconds(bed.daemon.popen.pid)
            guest.freeze()
            guest.wait_active()
            rates[name] = size / MIB / guest.finish()
            if name == "1":
                cpu = cpu_seconds(bed.daemon.popen.pid) - before
            guest.verify()
    return {"bulk-1": rates["1"] / pipe["mib_s"], "bulk-2": rates["2"] / pipe["mib_s"],
            "zeros": rates["zeros"] / rates["1"], "cpu": cpu / copy["cpu_s"],
            "1 connection MiB/s": rates["1"], "2 lanes MiB/s": rates["2"],
            "half zero MiB/s": rates["zeros"], "pipe MiB/s": pipe["mib_s"],
            "pipe + COPY MiB/s": copy["mib_s"], "CPU s/GiB": cpu * 1024 * MIB / size,
            "raw CPU s/GiB": copy["cpu_s"] * 1024 * MIB / size}


def under_stream(context, settings):
    """The same guest idle, streamed to, and both: idle faults, faults, stream kept."""
    size = context.pick(2048, 1024) * MIB
    options = {"size": size, "memory": context.memory}
    with BenchBed(*settings) as bed:
        guest = bed.held_off(touch_cpus=(FIRST_CPU,), **options)
        idle = guest.touch(context.pick(2000, 1000), pace_us=PACE_US)
        back = guest.touch(context.pick(2000, 1000), warmup=0)
        guest.end()
    with BenchBed(*settings) as bed:
        alone = bed.stream_seconds(**options)
    with BenchBed(*settings) as bed:
        guest = bed.guest(**options)
        guest.begin(cpus=(FIRST_CPU,))
        guest.start_touching(pace_us=PACE_US)
        both = guest.finish()
        faults = guest.touched(100)
    values = {"idle p50 us": idle["p50_us"], "idle p99 us": idle["p99_us"],
              "back to back p50 us": back["p50_us"], "faults p50 us": faults["p50_us"],
              "faults p999 us": faults["p999_us"], "faults": faults["n"],
              "alone MiB/s": size / MIB / alone, "with faults MiB/s": size / MIB / both}
    return faults["p50_us"] / idle["p50_us"], faults["p99_us"], alone / both, values


@case("stream-rt",
      Figure("stream-p50-rt", "fault p50 during a full-rate stream / idle p50", "<=", 1.5),
      Figure("stream-p99-rt", "fault p99 during it, real-time scheduling", "<=", 100, "us"),
      Figure("stream-kept-rt", "stream kept, a fault every 300 us, at the same time", ">=", 0.75),
      gib=6)
def stream_rt(context):
    p50, p99, kept, values = under_stream(context, REAL_TIME)
    return {"stream-p50-rt": p50, "stream-p99-rt": p99, "stream-kept-rt": kept, **values}


@case("stream-plain",
      Figure("stream-p50-plain", "fault p50 during a full-rate stream / idle p50", "<=", 1.5),
      Figure("stream-p99-plain", "fault p99 during it, no real-time scheduling", "<=", 300, "us"),
      Figure("stream-kept-plain", "stream kept, a fault every 300 us, at the same time", ">=",
             0.75), gib=6)
def stream_plain(context):
    p50, p99, kept, values = under_stream(context, PLAIN)
    return {"stream-p50-plain": p50, "stream-p99-plain": p99, "stream-kept-plain": kept, **values}


@case("bandwidth",
      Figure("bandwidth", "a limited stream's distance from its limit", "<=", 0.05),
      Figure("bandwidth-faults", "fault p50 beside it / idle p50", "<=", 1.5))
def bandwidth(context):
    limit, seconds = 64 * MIB, context.pick(4, 2)
    with BenchBed() as bed:
        guest = bed.held_off(size=64 * MIB, memory=context.memory)
        idle = guest.touch(500, pace_us=1000)
        guest.end()
    with BenchBed() as bed:
        guest = bed.guest(size=limit * seconds, memory=context.memory)
        guest.begin(bandwidth=limit)
        guest.start_touching(pace_us=1000)
        took = guest.finish()
        faults = guest.touched(100)
        rate = guest.show()["pages_stream"] * 4096 / took
    return {"bandwidth": abs(rate / limit - 1),
            "bandwidth-faults": faults["p50_us"] / idle["p50_us"],
            "limit MiB/s": limit / MIB, "stream MiB/s": rate / MIB,
            "p50 us": faults["p50_us"], "p99 us": faults["p99_us"], "idle p50 us": idle["p50_us"]}
