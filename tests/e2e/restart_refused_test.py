# SPDX-License-Identifier: Apache-2.0
"""What a restarted daemon does not take up, and what does not fit into the FD store: it
says so, touches nothing, and serves the others. A supervisor stands for systemd."""
import fcntl
import os
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import PATIENCE, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
F_ADD_SEALS, SHRINK_AND_GROW = 1033, 2 | 4
RECORD_SLOTS = struct.Struct("<2Q")  # offsets, behind the kept_header of 40 bytes
STATE_NUMBERS = struct.Struct("<5Q")  # units, lanes, events, page states, ledger; as well
HEAD_BYTES = 40
VERSION_OFFSET = 8
SLOT_HEAD = struct.Struct("<3Q")  # sequence, length, checksum


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


def waiting_threads(pid):
    """Threads of the process that sleep in a userfaultfd fault."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum((t / "wchan").read_text() == "handle_userfault" for t in tasks)


def content(fd):
    return bytearray(os.pread(fd, os.fstat(fd).st_size, 0))


def memory_file(data):
    """As the daemon makes them: of a length that cannot change."""
    fd = os.memfd_create("swapped", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, len(data))
    os.pwrite(fd, data, 0)
    fcntl.fcntl(fd, F_ADD_SEALS, SHRINK_AND_GROW)
    return fd


def flip(offset):
    def change(data):
        data[offset] ^= 1
        return data
    return change


def slots(data):
    """(sequence, where its bytes begin) of both copies of the record."""
    offsets = RECORD_SLOTS.unpack_from(data, HEAD_BYTES)
    return [(SLOT_HEAD.unpack_from(data, o)[0], o + SLOT_HEAD.size) for o in offsets]


def flip_both_copies(data):
    for _, begin in slots(data):
        data[begin + 4] ^= 1
    return data


def flip_newest_copy(data):
    return flip(max(slots(data))[1] + 4)(data)


def newer_version(data):
    data[VERSION_OFFSET] += 1
    return data


def impossible_page_state(data):
    data[STATE_NUMBERS.unpack_from(data, HEAD_BYTES)[3] + 7] = 77
    return data


def ledger_too_long(data):
    data[STATE_NUMBERS.unpack_from(data, HEAD_BYTES)[4] + 4] = 1
    return data


# What is swapped, how, and what the operator must read.
CHANGED = (
    ("record", lambda data: bytearray(os.urandom(len(data))), "it is another file"),
    ("record", lambda data: data[:30], "it has 30 bytes, less than a header"),
    ("record", flip(HEAD_BYTES), "its header's checksum is"),
    ("record", newer_version, "written by a newer version"),
    ("record", flip_both_copies, "neither copy of it is whole"),
    ("record", flip_newest_copy, "the newer one has a wrong checksum"),
    ("state", lambda data: bytearray(), "it has 0 bytes, less than a header"),
    ("state", flip(HEAD_BYTES), "its header's checksum is"),
    ("state", lambda data: data[:-4096], "but its header says"),
    ("state", newer_version, "written by a newer version"),
    ("state", impossible_page_state, "is in state 77"),
    ("state", ledger_too_long, "its ledger says 4294967"),
)


class Swap:  # pylint: disable=too-few-public-methods
    """Something else stands in the store in the place of a descriptor; undo() puts it back."""

    def __init__(self, bed, m, kind, fd, text):
        self.store, self.m, self.text = bed.supervisors["postcopyd"], m, text
        self.kind, self.name = kind, f"{m.id}.{kind}"
        self.original = os.dup(self.store.descriptor(self.name))
        self.store.replace(self.name, fd)

    def undo(self):
        self.store.replace(self.name, self.original)


def swap_all(bed, migrations):
    store = bed.supervisors["postcopyd"]

    def kept(m, kind):
        return store.descriptor(f"{m.id}.{kind}")
    swaps = [Swap(bed, m, kind, memory_file(change(content(kept(m, kind)))), text)
             for m, (kind, change, text) in zip(migrations, CHANGED)]
    one, other, third, fourth = migrations[len(CHANGED):]
    swaps.append(Swap(bed, one, "record", os.dup(kept(other, "record")), "of another migration"))
    swaps.append(Swap(bed, other, "state", os.dup(kept(one, "state")),
                      f"it is that of migration {one.id}"))
    swaps.append(Swap(bed, third, "record", os.open("/dev/null", os.O_RDWR), "is not a memory file"))
    swaps.append(Swap(bed, fourth, "uffd0", memory_file(bytes(4096)), "userfaultfd"))
    return swaps


def check_refused(bed, swap, before):
    m = swap.m
    shown = m.show()
    check(shown["state"] == "failed", f"{swap.name} for {swap.text!r}: {shown['state']}")
    check(swap.text in shown["state_text"], f"{swap.text!r} expected: {shown['state_text']}")
    check("its guest waits" in shown["state_text"], shown["state_text"])
    check(any(m.id in line and "failed" in line for line in bed.ctl("list").splitlines()),
          bed.ctl("list"))
    now = sorted(n for n in bed.stored() if n.startswith(m.id))
    check(now == before, f"{swap.name}: the store had {before} and has {now}")


def guests_wait(swaps):
    """Each thread sleeps at a missing page: none was woken to read zeros."""
    for swap in swaps:
        swap.m.guest.say("go")
    for swap in swaps:
        wait_until(f"both threads of the guest of {swap.name} wait", lambda g=swap.m.guest:
                   waiting_threads(g.popen.pid) == 2)
        check(not swap.m.guest.all("wrong-page"), f"wrong: {swap.m.guest.all('wrong-page')}")


def test_wrong_descriptors_are_not_taken_up():
    """Each wrong record, state or userfaultfd ends in a text, its guest waits, others are
    served; and with the right ones back, the next daemon goes on and no byte is wrong."""
    with SupervisedBed(FAST) as bed:
        migrations = [in_the_middle(bed, "ram0:memfd:2M", "ram1:anon:2M")
                      for _ in range(len(CHANGED) + 4)]
        healthy = in_the_middle(bed, "ram0:memfd:4M")
        bed.kill_service()
        before = [sorted(n for n in bed.stored() if n.startswith(m.id)) for m in migrations]
        swaps = swap_all(bed, migrations)
        bed.start_service()
        for swap, names in zip(swaps, before):
            check_refused(bed, swap, names)
        guests_wait(swaps)
        healthy.guest.say("go")
        let_finish(bed, healthy)
        bed.migration("ram0:memfd:4M", poison=4).run()
        bed.kill_service()
        for swap in swaps:
            swap.undo()
        bed.start_service()
        for swap in swaps:
            let_finish(bed, swap.m)
        print(f"   {len(swaps)} refused, and then taken up")


def test_missing_descriptors_are_not_taken_up():
    """Where one has gone, the text says which; cancel --force empties the store of the rest."""
    with SupervisedBed(FAST) as bed:
        store = bed.supervisors["postcopyd"]
        kinds = {"state": "its state is not in the FD store",
                 "uffd0": "uffd0 is not in the FD store",
                 "memory0": "memory0 is not in the FD store"}
        migrations = {kind: in_the_middle(bed, "ram0:memfd-minor:2M") for kind in kinds}
        bed.kill_service()
        for kind, m in migrations.items():
            with store.lock:
                entry = next(e for e in store.store if e[0] == f"{m.id}.{kind}")
                store.store.remove(entry)
            os.close(entry[1])
        bed.start_service()
        for kind, m in migrations.items():
            shown = m.show()
            check(shown["state"] == "failed" and kinds[kind] in shown["state_text"], str(shown))
            check("force" in bed.ctl("cancel", m.id, status=1), "cancelled without --force")
            bed.ctl("cancel", m.id, "--force")
        wait_until("the store is empty", lambda: not bed.stored())


def test_the_vmm_ends():
    """What cannot be taken up stays until its VMM ends; until then its id is not free."""
    with SupervisedBed(FAST) as bed:
        m = in_the_middle(bed, "ram0:memfd:2M")
        bed.kill_service()
        Swap(bed, m, "state", memory_file(b""), "")
        bed.start_service()
        said = m.start(status=1)
        check("still in the FD store" in said and "cancel --force" in said, said)
        bed.restart_service()
        check(m.show()["state"] == "failed" and bed.stored(), "not kept over another restart")
        m.guest.kill()
        wait_until("nothing is kept", lambda: not bed.stored())


def test_what_has_no_record_leaves_the_store():
    """Descriptors of an attach that no record speaks of are taken out; what is of somebody
    else is left alone."""
    with SupervisedBed(FAST) as bed:
        store = bed.supervisors["postcopyd"]
        bed.kill_service()
        orphan = "01234567-89ab-4cde-8f01-23456789abcd"
        for kind in ("uffd0", "uffd1", "memory0", "state", "vmm", "attach-postcopy"):
            store.store.insert(0, (f"{orphan}.{kind}", memory_file(bytes(4096))))
        store.store.insert(0, ("of.somebody.else", memory_file(b"x")))
        bed.start_service()
        wait_until("it is taken out", lambda: bed.stored() == ["of.somebody.else"])


def refused_attach(m, *options):
    guest = m.destination(*options, name="refused")
    check(guest.popen.wait(PATIENCE) == 5, f"exit status {guest.popen.returncode}")
    return guest.log_text()


def test_store_full():
    """What would not fit is refused before anything is done, with a text that says what to
    raise; the guest that is there survives a crash, and later there is room again."""
    settings = {"migrations": {**FAST["migrations"], "fd_store_max": "14"}}
    with SupervisedBed(settings, store_max=14) as bed:
        m = in_the_middle(bed, "ram0:memfd-minor:8M", "ram1:memfd-minor:8M")
        mine = sorted(bed.stored())
        check(len(mine) == 7, str(mine))
        second = bed.migration(*(f"ram{i}:memfd-minor:4M" for i in range(3)), poison=2)
        source = second.source()
        second.start()
        text = refused_attach(second, "--uffds", "3")
        check("has room for 14 descriptors, 8 are used, and this takes 9 more" in text, text)
        check("fd_store_max" in text and "FileDescriptorStoreMax" in text, text)
        check(sorted(bed.stored()) == sorted([*mine, f"{second.id}.record"]), str(bed.stored()))
        third = bed.migration("ram0:memfd:4M")
        third.start()
        text = bed.migration("ram0:memfd:4M").start(status=1)
        check("has room for 14 descriptors, 9 are used" in text, text)
        bed.restart_service()
        m.guest.say("go")
        let_finish(bed, m)
        second.destination("--uffds", "3").finish()
        source.finish()
        check(second.show()["state"] == "completed", second.show()["state"])


def test_ended_ones_make_room():
    """What is kept only to be shown leaves the store for a guest that needs it."""
    settings = {"migrations": {**FAST["migrations"], "fd_store_max": "8"}}
    with SupervisedBed(settings, store_max=8) as bed:
        for _ in range(5):
            bed.migration("ram0:memfd:2M", poison=1).run()
        check(len(bed.stored()) <= 8, str(bed.stored()))
        last = bed.migration("ram0:memfd:2M")
        last.run()
        bed.restart_service()
        check(last.show()["state"] == "completed", "the newest is not shown after a restart")
        newest = bed.migration("ram0:memfd:2M")
        newest.start()
        kept = {name.split(".")[0] for name in bed.stored()}
        check(kept == {last.id, newest.id}, f"not the oldest one left first: {kept}")


def test_nothing_is_left_after_an_end():
    """Cancelled, or killed by the policy: a guest's descriptors leave the store at once, and
    no daemon to come goes on with it."""
    with SupervisedBed(FAST) as bed:
        cancelled = in_the_middle(bed, "ram0:memfd:4M")
        setup = bed.migration("ram0:memfd:4M")
        setup.start()
        bed.ctl("cancel", setup.id)
        bed.ctl("cancel", cancelled.id, "--force")
        cancelled.guest.finish(4)
        allowed = {f"{m.id}.{kind}" for m in (cancelled, setup) for kind in ("record", "state")}
        wait_until("only records and ledgers are left", lambda: set(bed.stored()) <= allowed)
        bed.restart_service()
        for m in (cancelled, setup):
            check(m.show()["state"] == "cancelled", f"{m.show()['state']} after the restart")


main(test_wrong_descriptors_are_not_taken_up, test_missing_descriptors_are_not_taken_up,
     test_the_vmm_ends, test_what_has_no_record_leaves_the_store, test_store_full,
     test_ended_ones_make_room, test_nothing_is_left_after_an_end)
