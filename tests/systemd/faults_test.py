# SPDX-License-Identifier: Apache-2.0
"""Migrations of a real userfaultfd client, with real systemd, while the services are
killed, restarted, frozen and replaced: no byte is wrong, no lost page is readable, no
thread hangs, each loss has one record in the journal.

Runs in a machine of its own (tests/systemd/run.sh). POSTCOPY_KILLS: how often the
daemon is killed (default 100), and the agent a quarter of that.
"""
import contextlib
import os
import pathlib
import random
import signal
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from system_bed import AGENT, DAEMON, SystemBed, systemctl  # noqa: E402 pylint: disable=wrong-import-position
from thread_stop import StoppedThread  # noqa: E402 pylint: disable=wrong-import-position
from e2e import PATIENCE, Proxy, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
REGIONS = ("ram0:memfd:96M", "ram1:anon:96M", "ram2:memfd-minor:64M")
KILLS = int(os.environ.get("POSTCOPY_KILLS", 100))
AGENT_KILLS = max(1, KILLS // 4)


class Run:
    """A migration under way, and what it must be in the end."""

    def __init__(self, bed, *options, regions=REGIONS, limit="20M", poison=96, source=None):
        self.bed = bed
        self.faults = 0
        self.m = bed.migration(*regions, poison=poison, late=16)
        self.source = self.m.source("--read-poison")
        self.m.start("--bandwidth", limit, source=source)
        self.guest = self.m.destination("--threads", "4", "--uffds", "2", "--waits", "5",
                                        *options)
        self.guest.wait_event("touching")
        self.source.say("late")

    def live(self):
        shown = self.m.show()
        return shown if shown["state"] not in ("completed", "failed", "cancelled") else None

    def finish(self):
        """Everything came, once, and nothing hangs: the guest checks each byte itself."""
        self.bed.ctl("set-limits", self.m.id, "--bandwidth", "0", status=None)
        self.guest.finish()
        self.source.finish()
        shown = self.m.check_ledger(self.guest)
        check(shown["state"] == "completed", f"{shown['state']}: {shown['state_text']}")
        check(self.guest.value("off") == 0, "pages are off")
        records = self.bed.records("PAGE_POISONED", self.m, "LEDGER_ENTRY")
        check(sorted(set(map(int, records))) == list(range(len(shown["poisoned"]))),
              f"the journal lacks losses "
              f"{set(range(len(shown['poisoned']))) - set(map(int, records))}")
        # Killed between a record and the note that it is written, it writes it again.
        check(len(records) - len(set(records)) <= self.faults, "records come twice")
        return shown


def table(what, times, served_ms=()):
    """A line of the table of faults injected."""
    served_ms = [ms for ms in served_ms if ms is not None]
    ms = f"{statistics.median(served_ms):.0f} / {max(served_ms):.0f}" if served_ms else "-"
    print(f"    | {what} | {times} | 0 | 0 | {ms} |", flush=True)


def served_after(run, since, least_ms=5):
    """Milliseconds from then until the first touch that had to wait has its page: the guest
    tells of each wait, by the same clock. None if no thread had to."""
    try:
        while True:
            waited_ns, end_ns = map(int, run.guest.next_event("waited", 2).split())
            if end_ns / 1e9 > since and waited_ns / 1e6 >= least_ms:
                return end_ns / 1e6 - since * 1000
    except TimeoutError:
        return None


@contextlib.contextmanager
def drop_in(line):
    """The daemon's unit with this setting."""
    path = pathlib.Path(f"/run/systemd/system/{DAEMON}.d/test.conf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[Service]\n{line}\n")
    systemctl("daemon-reload")
    try:
        yield
    finally:
        path.unlink()
        systemctl("daemon-reload")


def kill_often(times, names):
    """kill -9 at random moments of demand paging and stream; the times until a page came."""
    killed, ms = 0, []
    while killed < times:
        with SystemBed(FAST) as bed:
            services = [getattr(bed, name) for name in names]
            run = Run(bed)
            while killed < times and run.live():
                time.sleep(random.random() * 0.15)
                since = time.monotonic()
                pids = [service.signal(signal.SIGKILL) for service in services]
                killed += 1
                run.faults += 1
                for service, pid in zip(services, pids):
                    service.wait_active(other_than=pid)
                ms.append(served_after(run, since))
            run.finish()
    return ms


def test_kill_often():
    """No crash of the daemon loses a guest."""
    table("kill -9 of the daemon", KILLS, kill_often(KILLS, ["daemon"]))


def test_kill_agent_often():
    """Nor does one of the agent on the source."""
    table("kill -9 of the agent", AGENT_KILLS, kill_often(AGENT_KILLS, ["agent"]))


def test_kill_both_often():
    """Nor one of both at once."""
    table("kill -9 of both", AGENT_KILLS, kill_often(AGENT_KILLS, ["daemon", "agent"]))


def test_watchdog():
    """A service that stands still is ended by systemd's watchdog, and the guest goes on."""
    with SystemBed(FAST) as bed:
        run = Run(bed, limit="4M")
        for service, what in ((bed.daemon, "daemon"), (bed.agent, "agent")):
            since = time.monotonic()
            pid = service.signal(signal.SIGSTOP)
            service.wait_active(other_than=pid)
            ms = [served_after(run, since, least_ms=1000)]
            check("Watchdog timeout" in bed.journal(service.unit), "it was not the watchdog")
            table(f"SIGSTOP of the {what} (watchdog)", 1, ms)
        run.finish()


def test_watchdog_of_a_lane():
    """One thread that stands still while all others work is enough to be started again."""
    with drop_in("WatchdogSec=4s"), SystemBed(FAST) as bed:
        for name in ("urgent/1", "bulk/0"):
            run = Run(bed, "--pause-after", "50", limit="4M")
            run.guest.wait_event("paused")  # or it would have all its memory before that
            pid = bed.daemon.pid
            with StoppedThread(pid, name) as thread:
                wait_until("it was killed", thread.killed)
                bed.daemon.wait_active(other_than=pid)
            check(bed.records("LANE_STANDS", run.m, "REASON"), "the journal does not say which")
            check("Watchdog timeout" in bed.journal(), "it was not the watchdog")
            run.guest.say("go")
            run.finish()
    table("a thread of a lane stands (watchdog)", 2)


def restart_often(run, service):
    ms = []
    for _ in range(5):
        since = time.monotonic()
        pid = service.pid
        systemctl("restart", service.unit)
        service.wait_active(other_than=pid)
        ms.append(served_after(run, since))
    table(f"systemctl restart of {service.name}", len(ms), ms)


def test_restart():
    """systemctl restart, and daemon-reexec of systemd itself, lose nothing."""
    with SystemBed(FAST) as bed:
        run = Run(bed)
        restart_often(run, bed.daemon)
        restart_often(run, bed.agent)
        systemctl("daemon-reexec")
        systemctl("daemon-reload")
        pids = [service.signal(signal.SIGKILL) for service in (bed.daemon, bed.agent)]
        for service, pid in zip((bed.daemon, bed.agent), pids):
            service.wait_active(other_than=pid)
        run.finish()
        wait_until("only record and log are kept", lambda: bed.stored(AGENT) == 2)
    table("daemon-reexec, daemon-reload, kill -9 of both", 1)


def test_vmm_death():
    """What systemd keeps of a guest goes with its VMM."""
    with SystemBed(FAST) as bed:
        run = Run(bed)
        check(bed.stored() >= 6, f"{bed.stored()} descriptors are kept")
        run.guest.kill()
        run.m.wait_state("failed")
        wait_until("only record and state are kept", lambda: bed.stored() == 2)
        check(bed.stored(AGENT) >= 6, f"{bed.stored(AGENT)} descriptors are kept on the source")
        pid = bed.daemon.signal(signal.SIGKILL)
        bed.daemon.wait_active(other_than=pid)
        check(run.m.show()["state"] == "failed", "not shown as failed after a restart")
    table("death of the VMM", 1)


def test_store_full():
    """What the store has no room for is refused, and nothing that is in it suffers."""
    settings = {"migrations": {**FAST["migrations"], "fd_store_max": "12"}}
    with drop_in("FileDescriptorStoreMax=12"), SystemBed(settings) as bed:
        run = Run(bed)
        said = bed.migration("ram0:memfd:8M").start(status=1)
        check("FD store" in said and "FileDescriptorStoreMax=" in said, said)
        pid = bed.daemon.signal(signal.SIGKILL)
        bed.daemon.wait_active(other_than=pid)
        run.finish()
    table("store full", 1)


def flip_kept(name):
    """Change a bit in the header of the only file of this name that systemd keeps."""
    kept = [fd for fd in pathlib.Path("/proc/1/fd").iterdir() if f"memfd:{name} " in os.readlink(fd)]
    check(len(kept) == 1, f"systemd keeps {len(kept)} files called {name}")
    fd = os.open(kept[0], os.O_RDWR)
    os.pwrite(fd, bytes([os.pread(fd, 1, 41)[0] ^ 1]), 41)
    os.close(fd)


def test_wrong_state():
    """A state that cannot be trusted is refused and left alone; its guest waits, and goes on
    with the right one."""
    with SystemBed(FAST) as bed:
        run = Run(bed, "--pause-after", "50", limit="1M")
        run.guest.wait_event("paused")
        flip_kept("postcopyd-state")
        pid = bed.daemon.signal(signal.SIGKILL)
        pid = bed.daemon.wait_active(other_than=pid)
        shown = run.m.show()
        check(shown["state"] == "failed" and "checksum" in shown["state_text"], str(shown))
        run.guest.say("go")
        check(bed.records("MIGRATION_STRANDED", run.m, "REASON"), "the journal does not say why")
        flip_kept("postcopyd-state")
        check(run.guest.popen.poll() is None, "the guest did not wait")
        bed.daemon.signal(signal.SIGKILL)
        bed.daemon.wait_active(other_than=pid)
        run.finish()
    table("a wrong state memfd: refused; then the right one", 1)


def test_firecracker():
    """A VMM that does not hear of it loses nothing either; its group may call at its socket."""
    with SystemBed(FAST) as bed:
        m = bed.migration("mem0:anon:96M", "mem1:anon:32M", poison=32, packed=True)
        source = m.source()
        path = pathlib.Path(f"/run/postcopyd/vmm/{m.id}.sock")
        m.start("--bandwidth", "20M", "--firecracker-socket", path)
        owner = f"{path.owner()}:{path.group()} {path.stat().st_mode & 0o777:o}"
        check(owner == "postcopyd:postcopy-vmm 660", owner)
        pid = bed.daemon.signal(signal.SIGKILL)
        pid = bed.daemon.wait_active(other_than=pid)
        guest = m.firecracker(path, 16, "--pause-after", "50")
        guest.wait_event("paused")
        for _ in range(5):
            bed.daemon.signal(signal.SIGKILL)
            pid = bed.daemon.wait_active(other_than=pid)
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.wait_event("touched")
        m.wait_state("completed")
        guest.say("verify")
        guest.finish()
        source.finish()
        check(guest.value("off") == 0, "pages are off")
        m.check_ledger(guest)
    table("kill -9 of the daemon, VMM is Firecracker's stand-in", 6)


def test_reload_with_new_keys():
    """New certificates come with a reload, and no migration notices."""
    with SystemBed(FAST) as bed:
        proxy = Proxy(bed)
        run = Run(bed, source=proxy.address)
        pid = bed.daemon.pid
        bed.make_pki(bed.pki, "--cert", "destination")
        bed.install_keys()
        systemctl("reload", DAEMON)
        check(bed.daemon.pid == pid, "a reload started another process")
        check("settings and keys are loaded again" in bed.journal(), "it did not reload")
        check(proxy.cut() > 0, "there was no connection")  # the next ones have the new keys
        wait_until("connected again", lambda: run.m.show()["reconnects"] > 0)
        run.finish()
    table("reload with new keys", 1)


def test_stop_waits_for_the_guest():
    """systemctl stop ends nothing that a guest needs: it waits, and says for whom."""
    with SystemBed(FAST) as bed:
        run = Run(bed)
        systemctl("stop", "--no-block", DAEMON)
        wait_until("it says for whom it waits", lambda: run.m.id in bed.daemon.show("StatusText"))
        said = bed.migration("ram0:memfd:8M").start(status=1)
        check("stopping" in said, said)
        run.guest.finish()
        run.source.finish()
        check(run.guest.value("off") == 0, "pages are off")
        wait_until("it has ended", lambda: bed.daemon.show("ActiveState") == "inactive",
                   PATIENCE)
    table("systemctl stop", 1)


if __name__ == "__main__":
    main(test_kill_often, test_kill_agent_often, test_kill_both_often, test_watchdog,
         test_watchdog_of_a_lane, test_restart, test_vmm_death, test_store_full, test_wrong_state, test_firecracker,
         test_reload_with_new_keys, test_stop_waits_for_the_guest)
