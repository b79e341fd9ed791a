# SPDX-License-Identifier: Apache-2.0
"""The daemon dies in the middle of a migration, and the next one goes on: no byte is
wrong, no lost page is readable, no thread hangs. A supervisor stands for systemd."""
import os
import pathlib
import random
import re
import signal
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import PATIENCE, HugePages, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
ENDED = ("completed", "failed", "cancelled")


def progress(m):
    shown = m.show()
    return 100 if shown["state"] in ENDED else \
        100 * shown["memory_processed"] // max(1, shown["memory_total"])


def kill_often(bed, m, kills):
    """Kill it again and again, each time when a random bit more of memory is here."""
    done = 0
    for _ in range(kills):
        target = progress(m) + random.randint(0, 200 // kills)
        if target >= 100:
            break
        wait_until("progress", lambda t=target: progress(m) >= t)
        bed.restart_service()
        done += 1
    return done


def audited_once(bed, m, killed):
    """The journal has each loss; twice at most those that a kill came in between."""
    found = re.findall(rf"MIGRATION_ID={m.id} LEDGER_ENTRY=(\d+)", bed.daemon.log_text())
    shown = m.show()["poisoned"]
    check(set(map(int, found)) == set(range(len(shown))),
          f"records of {len(set(found))} losses, of {len(shown)}")
    check(len(found) - len(set(found)) <= killed, "records come twice")


def killed_often(*regions, kills=8, poison=64, options=(), limit="30M"):
    with SupervisedBed(FAST) as bed:
        m = bed.migration(*regions, poison=poison, late=8)
        source = m.source("--read-poison")
        m.start("--bandwidth", limit)
        guest = m.destination("--pause-after", "4", *options)
        guest.wait_event("touching")
        source.say("late")
        guest.wait_event("paused")  # so that the first one is in the middle for sure
        bed.restart_service()
        guest.say("go")
        killed = 1 + kill_often(bed, m, kills - 1)
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        check(shown["state"] == "completed" and shown["memory_remaining"] == 0, str(shown))
        check(guest.value("off") == 0, "pages are off")
        audited_once(bed, m, killed)
        log = bed.daemon.log_text()
        print(f"   {killed} kills;", ", ".join(
            f"{sum(map(int, re.findall(rf'([0-9]+) {what}', log)))} {what}"
            for what in ("were being asked for", "being placed", "being mapped")))


def test_killed_often():
    """No crash loses a guest: memfd and anonymous memory, MISSING."""
    killed_often("ram0:memfd:64M", "ram1:anon:64M")


def test_killed_often_minor():
    """The same in MINOR mode, where a page is written first and then mapped."""
    killed_often("ram0:memfd-minor:64M", "ram1:memfd-minor:32M", options=("--registered",))


def test_killed_often_lanes():
    """The same with a lane for each of four userfaultfds, and no limit for the streams."""
    killed_often("ram0:memfd-minor:32M", "ram1:memfd:32M", "ram2:anon:32M", "ram3:anon:32M",
                 options=("--uffds", "4", "--threads", "8"), limit="60M")


def test_killed_often_split():
    """The same with two regions that libpostcopy splits over four userfaultfds."""
    killed_often("ram0:memfd-minor:96M", "ram1:anon:32M",
                 options=("--split", "4", "--threads", "8"), limit="60M")


def test_killed_often_hugetlb():
    """The same with huge pages, which are lost as a whole."""
    with HugePages(72):
        killed_often("ram0:hugetlb:32M", "ram1:hugetlb-minor:32M", kills=4, poison=3)


def test_killed_before_the_attach():
    """What was started is there after a crash, with all that was said of it."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:16M", poison=4)
        source = m.source()
        m.start("--bandwidth", "7M", "--lost-policy", "poison", "--lost-deadline", "77s")
        before = m.show()
        bed.restart_service()
        after = m.show()
        for key in ("migration_id", "state", "peer", "peer_identity", "bandwidth"):
            check(before[key] == after[key], f"{key} was {before[key]} and is {after[key]}")
        guest = m.destination().finish()
        source.finish()
        m.check_ledger(guest)


def kill_at(bed, n_kept):
    """Kill the daemon in the moment when it has given so many descriptors away."""
    supervisor, pid, dead = bed.supervisors["postcopyd"], bed.daemon.popen.pid, threading.Event()
    left = iter(range(n_kept - 1, -1, -1))

    def kept(_):
        if next(left, None) == 0:
            os.kill(pid, signal.SIGKILL)
            supervisor.on_kept = None
            dead.set()

    supervisor.on_kept = kept
    return dead


def test_killed_during_the_attach():
    """An attach has happened for every daemon to come, or for none: the VMM hears which."""
    taken = refused = 0
    with SupervisedBed(FAST) as bed:
        for n in (1, 2, 3, 4, 5):  # state, userfaultfd, memory file, pidfd, connection
            m = bed.migration("ram0:memfd-minor:4M")
            source = m.source()
            m.start()
            dead = kill_at(bed, n)
            guest = m.destination()
            check(dead.wait(PATIENCE), f"it never kept {n} descriptors")
            bed.restart_service()
            if guest.popen.wait(PATIENCE) == 0:
                taken += 1
            else:
                refused += 1
                check(m.show()["state"] == "setup", f"refused, but in state {m.show()['state']}")
                wait_until("only the record is left", lambda i=m.id:
                           [n for n in bed.stored() if n.startswith(i)] == [f"{i}.record"])
                m.destination(name=f"again{n}").finish()
            source.finish()
            check(m.show()["state"] == "completed", m.show()["state"])
    print(f"   {taken} attached, {refused} were told that they are not")


def test_killed_before_the_answer():
    """A VMM that is attached, but was not told, hears it from the next daemon."""
    with SupervisedBed(FAST) as bed:
        for _ in range(5):
            m = bed.migration("ram0:memfd:4M")
            source = m.source()
            m.start()
            guest = m.destination()
            # Its record is written now, and the answer on its way.
            wait_until("attached", lambda i=m.id: f"{i}: setup -> active" in
                       bed.daemon.log_text())
            bed.restart_service()
            guest.finish()
            source.finish()


def test_settings_hold():
    """Limit, policy and the time in pause go on; the guest can ask what it has lost."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:64M", poison=16)
        source = m.source()
        m.start("--bandwidth", "1M")
        guest = m.destination("--pause-after", "100", "--threads", "2")
        guest.wait_event("paused")
        bed.ctl("set-limits", m.id, "--bandwidth", "64K")
        bed.restart_service()
        m.wait_state("postcopy-active")
        check(m.show()["bandwidth"] == 65536, f"bandwidth {m.show()['bandwidth']}")
        check(m.show()["memory_remaining"] > m.show()["memory_total"] // 2, "no limit held")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


def test_lost_source_stays_lost():
    """What the policy has poisoned is poisoned, and the deadline runs on over a crash."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:8M", "ram1:anon:8M")
        source = m.source()
        m.start("--bandwidth", "256K", "--lost-policy", "poison", "--lost-deadline", "3s")
        guest = m.destination("--any-poison")
        guest.wait_event("touching")
        bed.agent.kill()
        m.wait_state("postcopy-paused")
        bed.restart_service()
        check(m.show()["state"] in ("postcopy-paused", "completed"), m.show()["state"])
        m.wait_state("completed")
        guest.finish()
        source.kill()
        check(m.show()["lost_bytes"] > 0, "nothing is lost")
        bed.restart_service()
        shown = m.check_ledger(guest)
        check(shown["state"] == "completed", shown["state"])


def test_killed_while_the_source_is_told():
    """Nothing is missing any more, and the source was not told yet: the next daemon tells it."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:8M")
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "1", "--threads", "1", "--any-poison")
        guest.wait_event("paused")
        bed.agent.popen.send_signal(signal.SIGSTOP)  # it can neither serve nor acknowledge
        bed.ctl("poison", m.id, f"0x0+{8 << 20}")
        wait_until("nothing is missing", lambda: m.show()["memory_remaining"] == 0)
        check(m.show()["state"] != "completed", "the source has acknowledged already")
        bed.restart_service()
        bed.agent.popen.send_signal(signal.SIGCONT)
        guest.say("go")
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        # The Complete that the dead one had sent may come first: then that is what it hears.
        check(shown["state"] == "completed", shown["state"])
        check(shown["state_text"] == "" or "the export is released" in shown["state_text"],
              shown["state_text"])


def test_shown_after_the_end():
    """How it ended can be asked after a restart; only record and ledger are kept for that."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:8M", poison=9)
        m.run()
        wait_until("the VMM's descriptors are gone", lambda: sorted(bed.stored()) ==
                   [f"{m.id}.record", f"{m.id}.state"])
        before = m.show()
        bed.restart_service()
        after = m.show()
        for key in ("state", "lost_bytes", "memory_total", "memory_remaining", "poisoned",
                    "regions"):
            check(before[key] == after[key], f"{key} was {before[key]} and is {after[key]}")
        again = bed.migration("ram0:memfd:8M")
        again.id = m.id
        again.run()


def test_vmm_dies_while_nobody_is_there():
    """A VMM that ended while the daemon was away ends its migration, and leaves the store."""
    with SupervisedBed(FAST) as bed:
        m = bed.migration("ram0:memfd:32M")
        m.source()
        m.start("--bandwidth", "64K")
        guest = m.destination("--pause-after", "9", "--threads", "1")
        guest.wait_event("paused")
        bed.kill_service()
        guest.kill()
        bed.start_service()
        m.wait_state("failed")
        wait_until("its descriptors are gone", lambda: len(bed.stored()) == 2)


main(test_killed_often, test_killed_often_minor, test_killed_often_lanes, test_killed_often_split,
     test_killed_often_hugetlb, test_killed_before_the_attach, test_killed_during_the_attach, test_killed_before_the_answer,
     test_settings_hold, test_lost_source_stays_lost, test_killed_while_the_source_is_told,
     test_shown_after_the_end, test_vmm_dies_while_nobody_is_there)
