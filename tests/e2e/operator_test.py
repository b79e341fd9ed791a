# SPDX-License-Identifier: Apache-2.0
"""What an operator looks at: metrics that Prometheus accepts, status, and memory within bounds."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import json
import shutil
import subprocess

from e2e import Bed, SANITIZED, Skip, check, main  # noqa: E402 pylint: disable=wrong-import-position


def test_metrics():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:32M", poison=8)
        m.run()
        status, text = bed.http("/metrics")
        check(status == 200, f"status {status}")
        check("poison" in text and "fault" in text, text[:500])
        if not shutil.which("promtool"):
            raise Skip("promtool is not installed (package prometheus)")
        r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True,
                           text=True, check=False)
        check(r.returncode == 0, r.stdout + r.stderr)


def test_status():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:32M", poison=8)
        m.run()
        status, text = bed.http("/v1/status")
        check(status == 200, f"status {status}")
        json.loads(text)
        check(bed.http("/no/such/page")[0] == 404, "404 expected")


def test_status_disturbs_nobody():
    """Whoever connects after a status client has gone is served, on whichever socket."""
    with Bed() as bed:
        for _ in range(3):
            check(bed.http("/healthz")[0] == 200, "healthz")
            bed.ctl("list")
        m = bed.migration("ram0:memfd:8M")
        source = m.source()
        m.start()
        check(bed.http("/metrics")[0] == 200, "metrics")
        m.destination().finish()
        source.finish()


def resident_bytes(process):
    with open(f"/proc/{process.popen.pid}/smaps_rollup", encoding="ascii") as f:
        for line in f:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no Rss")


def test_daemon_memory():
    """At most 32 MiB, one byte a guest page, and fixed buffers a lane."""
    if SANITIZED:
        raise Skip("memory use says nothing under a sanitizer")
    with Bed() as bed:
        m = bed.migration("ram0:memfd:512M", "ram1:anon:512M", poison=64)
        source = m.source()
        m.start()
        guest = m.destination("--uffds", "2")
        highest = 0
        while m.show()["state"] != "completed":
            highest = max(highest, resident_bytes(bed.daemon))
        guest.finish()
        source.finish()
        limit = (32 << 20) + (1 << 30) // 4096 + 2 * (8 << 20)
        print(f"   {highest >> 10} KiB, limit {limit >> 10} KiB")
        check(highest <= limit, f"{highest} bytes resident")


main(test_metrics, test_status, test_status_disturbs_nobody, test_daemon_memory)
