# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest moves by QEMU's own postcopy, and by ours: what the guest
itself sees of it, beside each other in each round.

The guest (tests/vmm/linux_guest/) has 512 MiB and two vCPUs and walks over 320 MiB
of its memory, page after page far apart. Its packets tell the peer how many pages
it has checked: so downtime and loss of work are seen from outside, by one clock.
How long a touch took it times itself.
"""
import contextlib
import pathlib
import shutil
import tempfile
import time

from bed import BenchBed
from linux_bed import Guest, Machine
from linux_journey import Journey
from peer_qemu import CAPABILITIES, make_certificates, migrate
from rounds import Figure, case

KNOWN_SPEED_S = 2.0  # how long its speed is measured before
# For so long after it was stopped its speed is measured: more than any of these migrations takes.
AFTER_S = 4.0
NICE_0 = ({"lanes": {"bulk_nice": 0}}, {"links": {"bulk_nice": 0}})


def moved(guest, source, destination, move):
    """What the guest saw of move(), which returns when all its memory is there."""
    guest.wait_walked(2)
    time.sleep(KNOWN_SPEED_S)
    now = time.monotonic()
    speed = guest.peer.speed(now - KNOWN_SPEED_S, now)
    source.mark()
    started = time.monotonic()
    move()
    ended = time.monotonic()
    downtime, stopped, _ = guest.peer.downtime(started, ended)
    time.sleep(max(0.0, stopped + AFTER_S - time.monotonic()))
    report = destination.report()
    guest.wait_walked(1)
    guest.check_right()
    return {"downtime ms": downtime * 1e3, "stall p50 us": report["stall_p50_us"],
            "stall p99 us": report["stall_p99_us"], "stall max us": report["max_us"],
            "stalls": report["stalls"], "memory s": ended - stopped,
            "speed kept": guest.peer.speed(stopped, stopped + AFTER_S) / speed,
            "pages/s before": speed}


def by_qemu(program, directory):
    """QEMU's own, over TLS with a channel of its own for faults (preempt); and its version."""
    def tls(endpoint):
        return ("-object", f"tls-creds-x509,id=tls0,dir={directory},endpoint={endpoint},"
                "verify-peer=on")
    with contextlib.ExitStack() as stack:
        make_certificates(directory)
        guest = Guest(directory)
        stack.callback(guest.close)
        machines = []
        for name, incoming, endpoint in (("source", False, "client"),
                                         ("destination", True, "server")):
            machines.append(Machine(guest, name, *tls(endpoint), incoming=incoming,
                                    program=program))
            stack.callback(machines[-1].close)
            machines[-1].monitor.set_capabilities(*CAPABILITIES, "events")
        guest.wait_booted()

        def move():
            migrate(*machines)
            machines[0].monitor.wait_status("completed")
        return moved(guest, *machines, move), machines[0].monitor.version()


def by_us(program, *settings):
    """The same guest and QEMU with the preload; the daemons with these settings."""
    with Journey(hosts=1, bed=BenchBed, settings=settings, program=program) as journey:
        journey.boot()
        hop = journey.prepare()
        found = moved(journey.guest, hop.source, hop.destination, lambda: hop.move("--wait"))
        hop.wait_completed()
        journey.arrive()
        return {**found, "stopped ms": hop.downtime_ms}


@case("qemu-linux",
      Figure("linux-downtime", "a Linux guest's downtime with QEMU's postcopy / with ours"),
      Figure("linux-stall-p99", "p99 of its stalls with QEMU's / with ours"),
      Figure("linux-speed", "speed it keeps in the 4 s after the stop with ours / with QEMU's"),
      Figure("linux-speed-nice0", "the same, the streams of ours with nice 0"), peer="qemu",
      # Its vCPUs keep the CPUs busy, and an idle loop would be in the way of the nice streams.
      spin=False, gib=2)
def qemu_linux(context):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="postcopy-bench-qemu-"))
    try:
        qemu, version = by_qemu(context.qemu, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    ours = by_us(context.qemu)
    nice0 = by_us(context.qemu, *NICE_0)
    return {"linux-downtime": qemu["downtime ms"] / ours["downtime ms"],
            "linux-stall-p99": qemu["stall p99 us"] / ours["stall p99 us"],
            "linux-speed": ours["speed kept"] / qemu["speed kept"],
            "linux-speed-nice0": nice0["speed kept"] / qemu["speed kept"],
            **{f"QEMU {name}": value for name, value in qemu.items()},
            **{f"our {name}": value for name, value in ours.items()},
            **{f"our nice 0 {name}": value for name, value in nice0.items()},
            "QEMU version": version}
