# SPDX-License-Identifier: Apache-2.0
"""The packages of both services are replaced in the middle of a migration: by those of a
higher version, and by the ones before again. The guest notices nothing but a short wait.

Runs in a machine of its own (tests/systemd/run.sh). POSTCOPY_PACKAGES, POSTCOPY_HIGHER:
the folders of this version's packages and of a higher one's.
"""
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from faults_test import FAST, Run, table  # noqa: E402 pylint: disable=wrong-import-position
from system_bed import SystemBed  # noqa: E402 pylint: disable=wrong-import-position
from e2e import Proxy, check, main  # noqa: E402 pylint: disable=wrong-import-position

PACKAGES = [pathlib.Path(os.environ.get(f"POSTCOPY_{name}", "/nonexistent"))
            for name in ("HIGHER", "PACKAGES")]


def install(folder):
    """What runs on a host that sends and receives guests; as unattended upgrades do."""
    packages = [file for name in ("postcopyd", "postcopy-source", "postcopyctl")
                for file in folder.glob(f"{name}_*.deb")]
    check(len(packages) == 3, f"{folder} has {packages}")
    r = subprocess.run(["dpkg", "--force-confold", "--install", *packages], text=True,
                       capture_output=True, check=False, timeout=60)
    check(r.returncode == 0, f"dpkg: {r.stdout}{r.stderr}")


class SlowLink(Proxy):
    """Requests take two milliseconds, so that the guest still needs pages after two upgrades."""

    def _relay(self, a, b):  # pylint: disable=arguments-differ
        super()._relay(Slow(a), b)


class Slow:
    """A socket whose small messages come later."""

    def __init__(self, s):
        self.s = s

    def recv(self, length):
        data = self.s.recv(length)
        if len(data) < 1024:  # not the stream
            time.sleep(0.002)
        return data

    def shutdown(self, how):
        self.s.shutdown(how)


def longest_wait(run, since):
    """Of a guest's thread for one page, in milliseconds; it ended between then and now."""
    now, waits = time.monotonic(), [0]
    try:
        while True:
            waited_ns, end_ns = map(int, run.guest.next_event("waited", 2).split())
            if end_ns / 1e9 > since:
                waits.append(waited_ns / 1e6)
            if end_ns / 1e9 > now:
                break
    except TimeoutError:
        pass
    return max(waits)


def test_upgrade_in_a_migration():
    """No page is wrong or lost, whichever of two versions goes on from the other."""
    with SystemBed(FAST) as bed:
        run, ms = Run(bed, limit="4M", source=SlowLink(bed).address), []
        for folder in PACKAGES:
            check(run.live(), "the migration has ended before the upgrade")
            services, since = (bed.daemon, bed.agent), time.monotonic()
            pids = [service.pid for service in services]
            install(folder)
            for service, pid in zip(services, pids):
                service.wait_active(other_than=pid)
                check(f"{service.name} {folder.name} is ready" in bed.journal(service.unit),
                      f"another version of {service.name} runs")
            ms.append(longest_wait(run, since))
        run.finish()
    table("upgrade and downgrade of the packages (longest wait)", len(ms), ms)


if __name__ == "__main__":
    main(test_upgrade_in_a_migration)
