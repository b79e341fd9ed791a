# SPDX-License-Identifier: Apache-2.0
"""The agent dies in the middle of a migration, and the next one goes on: the memory is
served again, no byte is wrong, what was lost stays lost, and the exporter's handle goes on
working. A supervisor stands for systemd."""
import collections
import os
import pathlib
import random
import re
import signal
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from attach_wire import ask, field, head  # noqa: E402 pylint: disable=wrong-import-position
from e2e import DESTINATION_NAME, PATIENCE, HugePages, Proxy, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
AGENT = "postcopy-sourced"
ENDED = ("completed", "failed", "cancelled")


def agent_bed(settings=None, both=False, **options):
    return SupervisedBed(FAST, settings, supervised=(AGENT, "postcopyd") if both else (AGENT,),
                         **options)


def progress(m):
    shown = m.show()
    return 100 if shown["state"] in ENDED else \
        100 * shown["memory_processed"] // max(1, shown["memory_total"])


def kill(bed, services=(AGENT,)):
    for name in services:
        bed.kill_service(name)
    for name in services:
        bed.start_service(name)


def kill_often(bed, m, kills, services=(AGENT,)):
    """Kill it again and again, each time when a random bit more of memory is there, as long
    as some is missing; how often."""
    for done in range(kills):
        target = progress(m) + random.randint(0, 140 // kills)
        if target >= 100:
            return done
        wait_until("progress", lambda t=target: progress(m) >= t)
        kill(bed, services)
    return kills


def lost_at_source(m):
    """Guest-physical addresses of the pages that the agent says are lost."""
    pages = set()
    for p in m.show(on_source=True)["poisoned"]:
        pages |= {(p["region"], p["offset"] + i) for i in range(0, p["lost"], 4096)}
    return pages


def audited_once(bed, m, killed):
    """The journal of the agents has each lost page once; a kill may let one record come again."""
    records = collections.Counter(re.findall(
        rf"MIGRATION_ID={m.id} REGION=(\S+) PAGE_OFFSET=(\d+) GUEST_PHYSICAL_ADDRESS=\S+ "
        r"LOST_BYTES=(\d+)", bed.agent.log_text()))
    pages = set()
    for region, offset, length in records:
        pages |= {(region, int(offset) + i) for i in range(0, int(length), 4096)}
    lost = lost_at_source(m)
    check(pages == lost, f"recorded only: {sorted(pages - lost)[:5]}, "
          f"without a record: {sorted(lost - pages)[:5]}")
    again = sum(n - 1 for n in records.values())
    check(again <= killed, f"{again} records came again, with {killed} kills")


def late_reports_are_kept(m, source):
    """Every page whose report was acknowledged to the exporter is lost here."""
    lost = {p["guest_physical_address"] + i for p in m.show(on_source=True)["poisoned"]
            for i in range(0, p["lost"], 4096)}
    reported = {int(v, 0) for v in source.all("late-reported")}
    check(reported and not source.all("late-error"), f"failed: {source.all('late-error')}")
    check(reported <= lost, f"acknowledged, and forgotten: {[hex(a) for a in reported - lost]}")


def killed_often(*regions, kills=10, poison=64, source_options=("--read-poison",), options=(),
                 services=(AGENT,), limit="30M", pause=200):
    with agent_bed(both=len(services) > 1) as bed:
        m = bed.migration(*regions, poison=poison, late=8)
        source = m.source(*source_options)
        m.start("--bandwidth", "64K")
        guest = m.destination("--pause-after", pause, *options)
        guest.wait_event("paused")
        source.say("late")
        kill(bed, services)  # once for sure, in the middle
        source.say("late")
        bed.ctl("set-limits", m.id, "--bandwidth", limit)
        guest.say("go")
        killed = 1 + kill_often(bed, m, kills, services)
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        source.finish()  # it was told that its export is released
        shown = m.check_ledger(guest)
        check(shown["state"] == "completed" and shown["memory_remaining"] == 0, str(shown))
        check(guest.value("off") == 0, "pages are off")
        check(m.show(on_source=True)["state"] == "released", str(m.show(on_source=True)))
        late_reports_are_kept(m, source)
        audited_once(bed, m, killed)
        print(f"   {killed} kills, {len(lost_at_source(m))} lost pages")


def test_killed_often():
    """No crash of the agent loses a byte or a lost page: memfd, and anonymous memory that is
    read through the process."""
    killed_often("ram0:memfd:64M", "ram1:anon:64M")


def test_killed_often_lanes():
    """The same with a lane for each of four userfaultfds, and memfds read through the process."""
    killed_often("ram0:memfd-minor:32M", "ram1:memfd:32M", "ram2:anon:32M", "ram3:anon:32M",
                 source_options=("--read-poison", "--by-process"),
                 options=("--uffds", "4", "--threads", "8"), limit="60M")


def test_killed_often_hugetlb():
    """The same with huge pages."""
    with HugePages(72):
        killed_often("ram0:hugetlb:32M", "ram1:hugetlb-minor:32M", kills=4, poison=3,
                     source_options=(), pause=6)


def test_both_killed_often():
    """The same when both daemons die at once."""
    killed_often("ram0:memfd:64M", "ram1:anon:32M", services=(AGENT, "postcopyd"), kills=6)


def test_killed_before_the_freeze():
    """What was exported is there after a crash; the handle freezes it and sees its end."""
    with agent_bed() as bed:
        m = bed.migration("ram0:memfd:16M", "ram1:anon:16M", poison=9, late=4)
        source = m.source(freeze=False)
        before = m.show(on_source=True)
        bed.restart_service(AGENT)
        after = m.show(on_source=True)
        for key in ("migration_id", "state", "peer_identity", "regions", "poisoned", "lost_bytes"):
            check(before[key] == after[key], f"{key} was {before[key]} and is {after[key]}")
        source.say("late")
        bed.restart_service(AGENT)
        m.start()
        guest = m.destination()
        m.wait_state("active")
        bed.restart_service(AGENT)
        source.say("freeze")
        source.wait_event("frozen")
        guest.finish()
        source.finish()
        m.check_ledger(guest)
        late_reports_are_kept(m, source)


def test_killed_before_the_answer():
    """What the exporter asked a dead agent, the next one answers: freeze, reports, withdraw."""
    with agent_bed() as bed:
        m = bed.migration("ram0:memfd:8M", late=6)
        source = m.source(freeze=False)
        for word, event in (("late", "late-reported"), ("freeze", "frozen"),
                            ("withdraw", "withdraw")):
            bed.agent.popen.send_signal(signal.SIGSTOP)
            source.say(word)
            bed.kill_service(AGENT)
            bed.start_service(AGENT)
            source.wait_event(event)
        late_reports_are_kept(m, source)
        check(source.all("withdraw")[0].startswith("done"), str(source.all("withdraw")))
        source.finish(status=4)  # withdrawn is no good end
        check(m.show(on_source=True)["state"] == "withdrawn", str(m.show(on_source=True)))


def kill_at(bed, m, n_kept):
    """Kill the agent in the moment when it has given so many descriptors away, and start the
    next one; the thread that does it. What it had sent meanwhile never came."""
    supervisor, pid, dead = bed.supervisors[AGENT], bed.agent.popen.pid, threading.Event()
    names = []

    def kept(name):
        names.append(name)
        if len(names) == n_kept:
            os.kill(pid, signal.SIGKILL)
            dead.set()

    def restart():
        check(dead.wait(PATIENCE), f"it never kept {n_kept} descriptors")
        bed.kill_service(AGENT)
        supervisor.on_kept = None
        supervisor.settle()
        with supervisor.lock:
            for entry in [e for e in supervisor.store if e[0].startswith(m.id)]:
                if entry[0] not in names[:n_kept]:
                    supervisor.store.remove(entry)
                    os.close(entry[1])
        bed.start_service(AGENT)

    supervisor.on_kept = kept
    thread = threading.Thread(target=restart)
    thread.start()
    return thread


def source_in_time(m):
    """The exporter, which may be refused."""
    guest = m._guest("source", "source", m.bed.dir / "export.sock", None,  # pylint: disable=protected-access
                     ["--peer-identity", DESTINATION_NAME], None)
    wait_until("exported, or refused", lambda: guest.popen.poll() is not None or
               "exported" in [e for e, _ in drained(guest)])
    return guest


def drained(guest):
    while not guest.lines.empty():
        line = guest.lines.get()
        if line is None:
            guest.lines.put(None)
            break
        guest.events.append((line.partition(" ")[0], line.partition(" ")[2]))
    return guest.events


def test_killed_during_the_export():
    """An export has happened for every agent to come, or for none: the exporter hears which."""
    taken = refused = 0
    with agent_bed() as bed:
        for n in (1, 2, 3, 4, 5):  # two memory files, log, connection, record
            m = bed.migration("ram0:memfd:4M", "ram1:memfd:4M", poison=2)
            restarter = kill_at(bed, m, n)
            source = source_in_time(m)
            restarter.join()
            if source.popen.poll() is None:
                taken += 1
            else:
                refused += 1
                check(source.popen.returncode == 5, f"ended with {source.popen.returncode}")
                wait_until("nothing is kept of what was refused", lambda i=m.id:
                           not [name for name in bed.stored(AGENT) if name.startswith(i)])
                source = m.source(freeze=False)
            source.say("freeze")
            source.wait_event("frozen")
            m.start()
            guest = m.destination()
            guest.finish()
            source.finish()
            m.check_ledger(guest)
    check(taken == 1 and refused == 4, f"{taken} exported, {refused} told that they are not")


def in_the_middle(bed, *regions, poison=4):
    m = bed.migration(*regions, poison=poison)
    m.source_guest = m.source()
    m.start("--bandwidth", "4K")
    m.guest = m.destination("--pause-after", "50", "--threads", "2")
    m.guest.wait_event("paused")
    return m


def let_finish(bed, m):
    bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
    m.guest.finish()
    m.source_guest.finish()
    check(m.guest.value("off") == 0, "pages are off")
    shown = m.check_ledger(m.guest)
    check(shown["state"] == "completed", f"{shown['state']}: {shown['state_text']}")


def memory_file(data):
    fd = os.memfd_create("swapped", os.MFD_CLOEXEC)
    os.pwrite(fd, data, 0)
    return fd


def flip(offset):
    def change(data):
        data[offset] ^= 1
        return data
    return change


def newer_version(data):
    data[8] += 1
    return data


ENTRIES = 8192  # of the log of lost pages
DAMAGE = (
    ("record", lambda data: bytearray(os.urandom(len(data))), "it is another file"),
    ("record", flip(40), "its header's checksum is"),
    ("record", newer_version, "written by a newer"),
    ("poison", lambda data: data[:30], "it has 30 bytes, less than a header"),
    ("poison", newer_version, "written by a newer"),
    ("poison", flip(ENTRIES + 3), "entry 0 of the log of its lost pages has a wrong checksum"),
    ("poison", lambda data: data[:-1], "it should have"),
    ("poison", flip(4096), "it should have"),
    ("memory0", lambda data: None, "neither a memory file"),
    ("poison", None, "the log of its lost pages is not in the FD store"),
    ("memory0", None, "memory0 is not in the FD store"),
)


def damage(bed, m, kind, change):
    """Another descriptor, or none, in the place of one that is kept; what undoes it."""
    store, name = bed.supervisors[AGENT], f"{m.id}.{kind}"
    original = os.dup(store.descriptor(name))
    if change is None:
        with store.lock:
            entry = next(e for e in store.store if e[0] == name)
            store.store.remove(entry)
        os.close(entry[1])
        return lambda: store.store.insert(0, (name, original))
    data = change(bytearray(os.pread(original, os.fstat(original).st_size, 0)))
    store.replace(name, os.open("/dev/null", os.O_RDWR) if data is None else memory_file(data))
    return lambda: store.replace(name, original)


def test_damage_is_not_taken_up():
    """What cannot be read is shown with its reason and stays in the store; its destination
    goes on waiting, and with the right descriptors back no byte is wrong. Others are served."""
    with agent_bed() as bed:
        migrations = [in_the_middle(bed, "ram0:memfd:2M", "ram1:anon:2M") for _ in DAMAGE]
        healthy = in_the_middle(bed, "ram0:memfd:4M")
        before = {m.id: m.show(on_source=True)["poisoned"] for m in migrations}
        bed.kill_service(AGENT)
        undo = [damage(bed, m, kind, change)
                for m, (kind, change, _) in zip(migrations, DAMAGE)]
        stored = sorted(bed.stored(AGENT))
        bed.start_service(AGENT)
        for m, (kind, _, text) in zip(migrations, DAMAGE):
            shown = m.show(on_source=True)
            check(shown["state"] == "failed" and text in shown["state_text"],
                  f"{kind}: {text!r} expected: {shown['state']}: {shown['state_text']}")
        check(sorted(bed.stored(AGENT)) == stored, f"{stored} became {bed.stored(AGENT)}")
        for m in migrations:
            m.guest.say("go")
            wait_until("told to wait", lambda i=m: "cannot take this export up" in
                       i.show()["state_text"])
            check(m.show()["state"] == "postcopy-paused" and "retrying" in m.show()["state_text"],
                  str(m.show()))
            check(m.guest.popen.poll() is None and m.source_guest.popen.poll() is None,
                  "a guest has ended")
        healthy.guest.say("go")
        let_finish(bed, healthy)
        bed.kill_service(AGENT)
        for function in undo:
            function()
        bed.start_service(AGENT)
        for m in migrations:
            check(m.show(on_source=True)["poisoned"] == before[m.id], "lost pages differ")
            let_finish(bed, m)
        print(f"   {len(migrations)} refused, and then taken up")


def test_operator_gives_it_up():
    """Its id is not free and it is not withdrawn by mistake; with force the store is empty."""
    with agent_bed() as bed:
        m = in_the_middle(bed, "ram0:memfd:2M")
        bed.kill_service(AGENT)
        damage(bed, m, "record", lambda data: bytearray(99))
        for _ in range(2):  # it stays so over another restart
            bed.start_service(AGENT)
            said = bed.ctl("cancel", m.id, on_source=True, status=1)
            check("use force" in said, said)
            refused = source_in_time(m)
            check(refused.popen.wait(PATIENCE) == 5 and "cancel --force" in refused.log_text(),
                  refused.log_text())
            check(len(bed.stored(AGENT)) == 4, str(bed.stored(AGENT)))
            bed.kill_service(AGENT)
        bed.start_service(AGENT)
        bed.ctl("cancel", m.id, "--force", on_source=True)
        wait_until("the store is empty", lambda: not bed.stored(AGENT))
        check(m.show(on_source=True)["state"] == "withdrawn", str(m.show(on_source=True)))


def export_by_hand(m, fd, length):
    """The answer to an Export of this memory file, whose connection ends at once."""
    region = field(1, b"ram0") + field(3, length) + field(4, 4096) + field(5, 2)
    return ask(m.bed.dir / "export.sock",
               field(2, head(m) + field(4, DESTINATION_NAME.encode()) + field(5, region)), [fd])


def test_an_open_file_is_kept_once():
    """The store would drop it the second time, and the next agent could not serve it: it is
    refused, whoever has it; opened again it is another one."""
    with agent_bed() as bed:
        m, other = bed.migration("ram0:memfd:2M"), bed.migration("ram0:memfd:2M")
        again = bed.migration("ram0:memfd:2M")
        m.source(freeze=False)
        fd = bed.supervisors[AGENT].descriptor(f"{m.id}.memory0")
        check("takes it once" in export_by_hand(other, fd, 2 << 20), "it was taken twice")
        bed.kill_service(AGENT)
        for change in (lambda data: bytearray(99), None):
            undo = damage(bed, m, "record" if change else "poison", change)
            bed.start_service(AGENT)
            answer = export_by_hand(other, fd, 2 << 20)
            check("takes it once" in answer and m.id in answer, f"taken twice: {answer}")
            bed.kill_service(AGENT)
            undo()
        bed.start_service(AGENT)
        opened = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        answer = export_by_hand(again, opened, 2 << 20)
        check("takes it once" not in answer, answer)
        bed.restart_service(AGENT)
        for i in (m, again):
            check(i.show(on_source=True)["state"] == "exported", str(i.show(on_source=True)))


def test_kept_after_the_end():
    """A released export keeps record and log, so that it can be shown and answers for itself;
    they go when it goes from the table, or when its id is exported again."""
    with agent_bed({"exports": {"ended": "2"}}) as bed:
        first = bed.migration("ram0:memfd:4M", "ram1:anon:4M", poison=7)
        first.run()
        wait_until("the rest has gone", lambda: sorted(bed.stored(AGENT)) ==
                   [f"{first.id}.poison", f"{first.id}.record"])
        before = first.show(on_source=True)
        bed.restart_service(AGENT)
        after = first.show(on_source=True)
        for key in ("state", "state_text", "poisoned", "regions", "memory_total", "lost_bytes"):
            check(before[key] == after[key], f"{key} was {before[key]} and is {after[key]}")
        again = bed.migration("ram0:memfd:4M", poison=1)
        again.id = first.id
        again.run()
        others = [bed.migration("ram0:memfd:2M") for _ in range(2)]
        for m in others:
            m.run()
        wait_until("the oldest has gone", lambda: sorted(bed.stored(AGENT)) == sorted(
            f"{m.id}.{kind}" for m in others for kind in ("poison", "record")))


class HeldProxy(Proxy):
    """What the source answers from some moment on does not arrive."""

    holding = False

    def _relay(self, a, b):  # pylint: disable=arguments-differ
        try:
            while data := a.recv(65536):
                if not (self.holding and a.getpeername()[1] == self.target[1]):
                    b.sendall(data)
        except OSError:
            pass


def test_complete_is_answered_again():
    """The destination has not heard that its Complete came: the next agent tells it."""
    with agent_bed() as bed:
        proxy = HeldProxy(bed)
        m = bed.migration("ram0:memfd:4M", poison=3)
        source = m.source()
        m.start("--bandwidth", "256K", source=proxy.address)
        guest = m.destination("--pause-after", "9", "--threads", "1", "--any-poison")
        guest.wait_event("paused")
        proxy.holding = True
        bed.ctl("poison", m.id, f"0x0+{4 << 20}")  # nothing is missing any more
        m.wait_state("released", on_source=True)
        check(m.show()["state"] != "completed", "it has heard of it already")
        bed.kill_service(AGENT)
        proxy.holding = False
        proxy.cut()
        bed.start_service(AGENT)
        m.wait_state("completed")
        check(not m.show()["state_text"], f"not acknowledged: {m.show()['state_text']}")
        guest.say("go")
        guest.finish()
        source.finish()


def mapping_of(pid, name):
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        if f"/memfd:{name} " in line:
            return int(line.split("-")[0], 16)
    raise AssertionError(f"{name} is not mapped in {pid}")


def test_exported_by_the_operator():
    """Memory of a process that the operator exported, with nobody connected, survives, too."""
    with agent_bed() as bed:
        owner = bed.migration("ram0:memfd:16M")
        source = owner.source()
        m = bed.migration("ram0:memfd:16M")
        m.common = owner.common  # the same content
        address = mapping_of(source.popen.pid, "ram0")
        bed.ctl("export", m.id, "--pid", source.popen.pid, "--peer", DESTINATION_NAME,
                "--token-file", m.token, f"ram0=0x0:{address:#x}:{16 << 20}", on_source=True)
        bed.restart_service(AGENT)
        bed.ctl("freeze", m.id, on_source=True)
        bed.restart_service(AGENT)
        bed.ctl("poison", m.id, "0x3000+4096", on_source=True)
        bed.restart_service(AGENT)
        m.start("--bandwidth", "64K")
        guest = m.destination("--any-poison", "--pause-after", "200")
        guest.wait_event("paused")
        kill(bed)
        guest.say("go")
        kill_often(bed, m, 3)
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        check(guest.value("lost") == 1 and guest.value("off") == 0, str(guest.events[-9:]))
        m.check_ledger(guest)
        m.wait_state("released", on_source=True)


def test_exporter_ends_meanwhile():
    """An exporter that ended while no agent was there: memory files are served to the end,
    memory of the process has gone, and the destination is told."""
    with agent_bed() as bed:
        file, process = (bed.migration(r, poison=2) for r in ("ram0:memfd:4M", "ram0:anon:4M"))
        for m in (file, process):
            m.source_guest = m.source()
            m.start("--bandwidth", "64K")
            m.guest = m.destination("--pause-after", "50", "--threads", "2")
            m.guest.wait_event("paused")
        bed.kill_service(AGENT)
        for m in (file, process):
            m.source_guest.kill()
        bed.start_service(AGENT)
        process.wait_state("failed", on_source=True)
        wait_until("told", lambda: "process" in process.show()["state_text"])
        bed.ctl("set-limits", file.id, "--bandwidth", "0")
        file.guest.say("go")
        file.guest.finish()
        file.check_ledger(file.guest)
        check(file.show()["state"] == "completed", file.show()["state"])
        wait_until("only records are left", lambda: sorted(bed.stored(AGENT)) == sorted(
            f"{m.id}.{kind}" for m in (file, process) for kind in ("record", "poison")))


def test_restart_by_signal():
    """Told that it is restarted the agent does not wait for its guests, who lose nothing."""
    with agent_bed() as bed:
        m = in_the_middle(bed, "ram0:memfd:4M", "ram1:anon:4M")
        for _ in range(3):
            bed.agent.popen.send_signal(signal.SIGUSR1)
            check(bed.agent.kill(signal.SIGTERM) == 0, "it did not end well")
            bed.start_service(AGENT)
            m.wait_state("postcopy-active")
        m.guest.say("go")
        let_finish(bed, m)


def test_store_full():
    """What would not fit is refused before anything is done, and the text says what to raise;
    ended ones make room."""
    with agent_bed({"exports": {"fd_store_max": "8"}}, store_max=8) as bed:
        for _ in range(4):
            bed.migration("ram0:memfd:2M", poison=1).run()
        first = in_the_middle(bed, "ram0:memfd:2M", "ram1:memfd:2M")
        check(len(bed.stored(AGENT)) <= 8, str(bed.stored(AGENT)))
        second = bed.migration("ram0:memfd:2M")
        refused = source_in_time(second)
        check(refused.popen.wait(PATIENCE) == 5, f"ended with {refused.popen.returncode}")
        text = refused.log_text()
        check("has room for 8 descriptors" in text and "this takes 4 more" in text, text)
        bed.restart_service(AGENT)
        first.guest.say("go")
        let_finish(bed, first)
        second.run()


main(test_killed_often, test_killed_often_lanes, test_killed_often_hugetlb,
     test_both_killed_often, test_killed_before_the_freeze, test_killed_before_the_answer,
     test_killed_during_the_export, test_damage_is_not_taken_up, test_operator_gives_it_up,
     test_an_open_file_is_kept_once,
     test_kept_after_the_end, test_complete_is_answered_again, test_exported_by_the_operator,
     test_exporter_ends_meanwhile, test_restart_by_signal, test_store_full)
