# SPDX-License-Identifier: Apache-2.0
"""What a container has not: the kernel's memory controller, scores for the OOM killer,
and a machine check for a lost page. Runs in a virtual machine with systemd
(tests/systemd/run.sh)."""
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from system_bed import DAEMON, SystemBed, systemctl  # noqa: E402 pylint: disable=wrong-import-position
from e2e import check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from faults_test import FAST, Run, table  # noqa: E402 pylint: disable=wrong-import-position

REGIONS = ("ram0:memfd:16M", "ram1:anon:16M", "ram2:memfd-minor:8M")


def run_in(bed, **options):
    return Run(bed, regions=REGIONS, poison=24, **options)


def test_lost_pages_are_machine_checks():
    """A lost page is what a memory error is: SIGBUS with BUS_MCEERR_AR, also after kills."""
    with SystemBed(FAST) as bed:
        run = run_in(bed, limit="2M")
        for _ in range(10):
            pid = bed.daemon.signal(signal.SIGKILL)
            run.faults += 1
            bed.daemon.wait_active(other_than=pid)
        run.finish()
        check(run.guest.value("sigbus-mceerr-ar") > 0, "no machine check")
        check(run.guest.value("sigbus-adrerr") == 0, "a lost page that was no machine check")
    table("kill -9 of the daemon, full machine", 10)


def test_last_to_be_killed():
    """The OOM killer takes others first."""
    with SystemBed(FAST) as bed:
        score = pathlib.Path(f"/proc/{bed.daemon.pid}/oom_score_adj").read_text().strip()
        check(score == "-900", f"oom_score_adj is {score}")


def test_out_of_memory():
    """Killed for its cgroup's limit, it starts again and again until there is memory, and
    its guest goes on then."""
    with SystemBed(FAST) as bed:
        run = run_in(bed, limit="1M")
        before = int(bed.daemon.show("NRestarts"))
        systemctl("set-property", "--runtime", DAEMON, "MemorySwapMax=0", "MemoryMax=2M")
        wait_until("the kernel kills it", lambda: int(bed.daemon.show("NRestarts")) > before)
        systemctl("set-property", "--runtime", DAEMON, "MemoryMax=infinity")
        bed.daemon.wait_active()
        check("OOM killer" in bed.journal(), "it was not killed for want of memory")
        run.finish()
    table("MemoryMax reached, oom-kill", 1)


main(test_lost_pages_are_machine_checks, test_last_to_be_killed, test_out_of_memory)
