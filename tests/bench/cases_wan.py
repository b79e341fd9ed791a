# SPDX-License-Identifier: Apache-2.0
"""A long way: 20 ms there and back, without and with loss, between two namespaces.

The link is bench-floor wan, which works where the kernel has no netem.
"""
import contextlib
import os
import pathlib
import subprocess

from bed import FLOOR, MIB, BenchBed, floor, in_netns
from e2e import Skip, check
from rounds import Figure, case

SOURCE_ADDRESS, DESTINATION_ADDRESS = "10.77.0.1", "10.77.0.2"
DELAY_US = 10000


def ip(*args):
    try:
        r = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    except OSError as e:
        raise Skip(f"ip: {e.strerror}: install iproute2") from None
    if r.returncode != 0:
        raise Skip(f"ip {' '.join(args)}: {r.stderr.strip()} (this needs root)")


@contextlib.contextmanager
def wan(loss_permille):
    """Two network namespaces and the link between them: source's and destination's path."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise Skip("/dev/net/tun is not there or not permitted")
    names = [f"pcbench{os.getpid()}{side}" for side in "sd"]
    paths = [pathlib.Path("/run/netns") / name for name in names]
    link = None
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        # pylint: disable=consider-using-with # ended below
        link = subprocess.Popen(
            [FLOOR, "wan", "--netns", paths[0], "--inside", f"{SOURCE_ADDRESS}/24",
             "--netns", paths[1], "--inside", f"{DESTINATION_ADDRESS}/24",
             "--delay-us", str(DELAY_US), "--loss-permille", str(loss_permille)],
            stdout=subprocess.PIPE)
        check(link.stdout.readline().strip() == b"{}", "bench-floor wan did not start")
        yield paths
    finally:
        if link:
            link.kill()
            link.wait()
            link.stdout.close()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def measure(context, loss_permille, size):
    with wan(loss_permille) as (source, destination):
        options = {"pki": context.pki, "server_netns": source, "address": SOURCE_ADDRESS}
        with in_netns(destination):
            ping = floor("ping", samples=40, **options)
            pipe = floor("pipe", bytes=size, **options)
        with BenchBed(source_netns=source, daemon_netns=destination,
                      source_host=SOURCE_ADDRESS) as bed:
            guest = bed.guest(size=size, memory=context.memory)
            guest.begin()
            guest.start_touching(threads=4, pace_us=20000)
            seconds = guest.finish()
            faults = guest.touched(5)
            guest.verify()
    rate = size / MIB / seconds
    return (rate / pipe["mib_s"], faults["p50_us"] / ping["p50_us"],
            {"stream MiB/s": rate, "pipe MiB/s": pipe["mib_s"], "fault p50 us": faults["p50_us"],
             "fault p99 us": faults["p99_us"], "faults": faults["n"],
             "ping p50 us": ping["p50_us"], "ping p99 us": ping["p99_us"]})


@case("wan",
      Figure("wan-stream", "20 ms away: stream / raw TLS pipe", ">=", 0.85),
      Figure("wan-fault", "fault p50 during the stream / TLS ping", "<=", 1.25), spin=False)
def wan_clean(context):
    stream, fault, values = measure(context, 0, context.pick(256, 128) * MIB)
    return {"wan-stream": stream, "wan-fault": fault, **values}


@case("wan-loss",
      Figure("wan-loss-stream", "20 ms away, 1 % loss: stream / raw TLS pipe", ">=", 0.85),
      Figure("wan-loss-fault", "fault p50 during the stream / TLS ping", "<=", 1.25), spin=False)
def wan_loss(context):
    stream, fault, values = measure(context, 10, context.pick(64, 16) * MIB)
    return {"wan-loss-stream": stream, "wan-loss-fault": fault, **values}
