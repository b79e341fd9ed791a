# SPDX-License-Identifier: Apache-2.0
"""How long a guest waits when the daemon is killed: from the signal to the first page that
the next daemon serves. Printed, not judged; that nothing is lost meanwhile is judged."""
import pathlib
import random
import signal
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
KILLS = 10


def processed(m):
    shown = m.show()
    return 100 * shown["memory_processed"] / shown["memory_total"]


def kill_at(bed, m, percent):
    """When it was killed, and when the next one was started."""
    wait_until(f"{percent:.1f} % are here", lambda: processed(m) >= percent)
    killed_ns = time.monotonic_ns()
    bed.kill_service(sig=signal.SIGKILL)
    started_ns = time.monotonic_ns()
    bed.start_service()
    return killed_ns, started_ns


def first_served_ms(kills, guest):
    """Of each kill. What ends after the next daemon was started was served by it."""
    ends = sorted(int(v.split()[1]) for v in guest.all("waited"))
    times = []
    for killed_ns, started_ns in kills:
        first = next((end for end in ends if end >= started_ns), None)
        check(first is not None, "no touch waited over a kill")
        times.append((first - killed_ns) / 1e6)
    return times


def measure(what, *regions, stream, options=()):
    with SupervisedBed(FAST) as bed:
        m = bed.migration(*regions, poison=64)
        source = m.source("--read-poison")
        m.start("--bandwidth", stream)
        guest = m.destination("--waits", "1", *options)
        guest.wait_event("touching")
        # A kill in each of so many parts of the way, at a random point of the part.
        kills = [kill_at(bed, m, (i + random.random()) * 80 / KILLS) for i in range(KILLS)]
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        check(shown["state"] == "completed" and shown["memory_remaining"] == 0, str(shown))
        check(guest.value("off") == 0, "pages are off")
        taken_up = bed.daemon.log_text().count(f"{m.id}: taken up after a restart")
        check(taken_up == KILLS, f"taken up {taken_up} times, {KILLS} kills")
        times = first_served_ms(kills, guest)
        print(f"   {KILLS} kills {what}: first page served after {statistics.median(times):.0f} ms "
              f"(median), {max(times):.0f} ms (worst)")


def test_in_demand_paging():
    """Ten kills while threads touch at random: nobody hangs, no byte is wrong, no poison lost."""
    measure("in demand paging", "ram0:memfd:96M", "ram1:anon:96M", stream="4K")


def test_in_the_stream():
    """The same while most comes by the stream, in MINOR mode, with two lanes."""
    measure("in the stream", "ram0:memfd-minor:96M", "ram1:memfd-minor:96M", stream="40M",
            options=("--uffds", "2"))


main(test_in_demand_paging, test_in_the_stream)
