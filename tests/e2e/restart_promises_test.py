# SPDX-License-Identifier: Apache-2.0
"""What a daemon that was killed had promised besides the pages: memory that was given back
stays zeros, the lost source's deadline counts on, and a source that was given up stays so."""
import mmap
import os
import pathlib
import select
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import PATIENCE, Proxy, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position
from thread_stop import StoppedThread  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
HEAD_BYTES = 40  # struct kept_header
STATE_NUMBERS = struct.Struct("<5Q")  # units, lanes, events, page states, ledger
MISSING, PRESENT, POISONED, REMOVED = 0, 3, 4, 5  # enum page_state
EVENT_BYTES, EVENT_REMOVE = 32, 0x15  # struct uffd_msg
RECORD_SLOTS = struct.Struct("<2Q")
SLOT_HEAD = struct.Struct("<3Q")  # sequence, length, checksum
ABANDONED, PAUSED_SINCE = 6, 13  # fields of MigrationRecord
MINUTE_US = 60 * 1000000


class KeptState:
    """The state memfd of a migration, as it is at any time."""

    def __init__(self, bed, m):
        self.fd = bed.supervisors["postcopyd"].descriptor(f"{m.id}.state")
        self.bytes = mmap.mmap(self.fd, 0)
        numbers = STATE_NUMBERS.unpack_from(self.bytes, HEAD_BYTES)
        self.n_units, _, self.events, self.map, _ = numbers

    def pages(self, first=0, n=None):
        return self.bytes[self.map + first:self.map + (first + n if n else self.n_units)]

    def add_events(self, events):
        """As a daemon that was killed right after it had read them."""
        self.bytes[self.events:self.events + len(events)] = events


class KeptRecord:
    """The record memfd of a migration whose daemon is dead: its newest copy."""

    def __init__(self, bed, m):
        self.fd = bed.supervisors["postcopyd"].descriptor(f"{m.id}.record")
        offsets = RECORD_SLOTS.unpack(os.pread(self.fd, RECORD_SLOTS.size, HEAD_BYTES))
        heads = [(SLOT_HEAD.unpack(os.pread(self.fd, SLOT_HEAD.size, o)), o) for o in offsets]
        (self.sequence, length, _), self.offset = max(heads)
        self.bytes = bytearray(os.pread(self.fd, length, self.offset + SLOT_HEAD.size))

    def _varint(self, at):
        end = at
        while self.bytes[end] & 0x80:
            end += 1
        value = sum((b & 0x7f) << 7 * i for i, b in enumerate(self.bytes[at:end + 1]))
        return value, end + 1

    def _number(self, field):
        """(value, where it begins, where it ends); 0 and no place, if it is not there."""
        at = 0
        while at < len(self.bytes):
            tag, begin = self._varint(at)
            value, at = self._varint(begin)
            if tag == field << 3:
                return value, begin, at
            if tag & 7 == 2:
                at += value
        return 0, 0, 0

    def get(self, field):
        return self._number(field)[0]

    def subtract(self, field, amount):
        """The number keeps its length, and the record its."""
        value, begin, end = self._number(field)
        value -= amount
        for i in range(begin, end):
            self.bytes[i] = value & 0x7f | (0x80 if i < end - 1 else 0)
            value >>= 7
        check(value == 0, "the number has got longer")
        head = struct.pack("<2Q", self.sequence, len(self.bytes))
        checksum = 0xcbf29ce484222325
        for b in head + self.bytes:
            checksum = (checksum ^ b) * 0x100000001b3 & (1 << 64) - 1
        os.pwrite(self.fd, head + struct.pack("<Q", checksum) + self.bytes, self.offset)


def in_the_middle(bed, region, *start, source=None, options=()):
    """Next to nothing has come, and the guest's threads wait for "go"."""
    m = bed.migration(region)
    m.source_guest = m.source()
    m.start("--bandwidth", "4K", *start, source=source)
    m.guest = m.destination("--pause-after", "100", "--threads", "2", *options)
    m.guest.wait_event("paused")
    return m


def let_finish(bed, m):
    bed.ctl("set-limits", m.id, "--bandwidth", "0")
    m.guest.say("go")
    m.guest.finish()
    m.source_guest.finish()
    shown = m.check_ledger(m.guest)
    check(shown["state"] == "completed", f"{shown['state']}: {shown['state_text']}")
    check(m.guest.value("off") == 0, f"not zeros, or not right: {m.guest.all('wrong-page')}")


KINDS = ("anon", "memfd", "memfd-minor")
FIRST, COUNT = 256, 1024  # of 2048 pages


def test_removed_before_the_kill():
    """What was given back, and noted as such, is zeros for the next daemon, too."""
    with SupervisedBed(FAST) as bed:
        for kind in KINDS:
            m = in_the_middle(bed, f"ram0:{kind}:8M")
            state = KeptState(bed, m)
            check(state.pages(FIRST, COUNT).count(MISSING) > COUNT // 2, "most is here already")
            m.guest.say(f"discard {FIRST} {COUNT}")
            m.guest.wait_event("discarded")
            wait_until("it is noted", lambda s=state:
                       s.pages(FIRST, COUNT) == bytes([REMOVED]) * COUNT)
            bed.restart_service()
            let_finish(bed, m)


def read_events(uffd):
    """All that is there up to the removal, from the userfaultfd that is kept."""
    events = b""
    while not events or events[-EVENT_BYTES] != EVENT_REMOVE:
        select.select([uffd], [], [])
        events += os.read(uffd, EVENT_BYTES)
    return events


def test_removal_read_but_not_noted():
    """A daemon that dies between read() and its note leaves the event to the next one."""
    with SupervisedBed(FAST) as bed:
        for kind in KINDS:
            m = in_the_middle(bed, f"ram0:{kind}:8M")
            bed.kill_service()
            state = KeptState(bed, m)
            m.guest.say(f"discard {FIRST} {COUNT}")
            state.add_events(read_events(bed.supervisors["postcopyd"].descriptor(f"{m.id}.uffd0")))
            m.guest.wait_event("discarded")  # read() lets it go on
            check(REMOVED not in state.pages(), "somebody has noted it")
            bed.start_service()
            let_finish(bed, m)


def waits_for_a_reader(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return any((t / "wchan").read_text() == "userfaultfd_event_wait_completion" for t in tasks)


def test_removed_while_nobody_is_there():
    """The balloon waits for the next daemon, which takes the event from the userfaultfd."""
    with SupervisedBed(FAST) as bed:
        for kind in KINDS:
            m = in_the_middle(bed, f"ram0:{kind}:8M")
            bed.kill_service()
            m.guest.say(f"discard {FIRST} {COUNT}")
            wait_until("the event waits", lambda g=m.guest: waits_for_a_reader(g.popen.pid))
            bed.start_service()
            m.guest.wait_event("discarded")
            let_finish(bed, m)


def turn_away(bed, times):
    """In the place of the agent: so often has the daemon tried, and waited, in vain."""
    host, port = bed.source_address.rsplit(":", 1)
    with socket.create_server((host, int(port))) as listener:
        listener.settimeout(PATIENCE)
        for _ in range(times):
            listener.accept()[0].close()


def test_deadline_counts_from_the_loss():
    """Neither a restart nor a second one gives a lost source its time again. An hour passes
    by what the record says of the loss, not by waiting: the deadline is far off otherwise."""
    with SupervisedBed(FAST) as bed:
        m = in_the_middle(bed, "ram0:memfd:8M", "--lost-policy", "poison", "--lost-deadline",
                          "3600s", options=["--any-poison"])
        bed.agent.kill()
        m.wait_state("postcopy-paused")
        bed.kill_service()
        lost_at = KeptRecord(bed, m).get(PAUSED_SINCE)
        check(lost_at, "the record does not say when the source was lost")
        for minutes, away in ((40, 40), (10, 50)):
            KeptRecord(bed, m).subtract(PAUSED_SINCE, minutes * MINUTE_US)
            bed.start_service()
            turn_away(bed, 5)
            shown = m.show()
            check(shown["state"] == "postcopy-paused" and not shown["lost_bytes"], str(shown))
            check(away * MINUTE_US <= shown["downtime_us"] < 60 * MINUTE_US,
                  f"away for {away} minutes, and shown are {shown['downtime_us']} us")
            bed.kill_service()
        KeptRecord(bed, m).subtract(PAUSED_SINCE, 10 * MINUTE_US)
        bed.start_service()
        shown = m.wait_state("completed")
        check(shown["lost_bytes"] > 0, "nothing is lost")
        m.guest.say("go")
        m.guest.finish()
        m.source_guest.kill()
        check(m.guest.value("off") == 0, "pages are off")


def given_up(bed):
    """(migration, its proxy, pages that are here): the daemon has noted that it gives the source
    up, and was killed before a lane could poison what is missing. None if that was too late."""
    proxy = Proxy(bed)
    m = in_the_middle(bed, "ram0:anon:16M", "--lost-policy", "poison", "--lost-deadline", "2s",
                      source=proxy.address, options=["--any-poison"])
    bed.ctl("set-limits", m.id, "--bandwidth", "0")  # it would be here at once
    proxy.refusing = True
    proxy.cut()
    m.wait_state("postcopy-paused")
    state = KeptState(bed, m)
    with StoppedThread(bed.daemon.popen.pid, "urgent/0") as thread:
        wait_until("given up", lambda: f"{m.id}: the source was away" in bed.daemon.log_text())
        bed.daemon.popen.kill()
        wait_until("dead", thread.killed)
    bed.kill_service()
    if POISONED not in state.pages():
        return m, proxy, state.pages().count(PRESENT)
    m.guest.kill()
    m.source_guest.kill()
    bed.start_service()
    return None


def test_given_up_stays_given_up():
    """Killed before it could poison what a lost source still had: the next one does that,
    and takes nothing more from the source, though it is there again."""
    with SupervisedBed(FAST) as bed:
        found = given_up(bed) or given_up(bed) or given_up(bed)
        check(found, "three times a thread was stopped later than two seconds after the loss")
        m, proxy, present = found
        check(KeptRecord(bed, m).get(ABANDONED) == 1, "the record does not say so")
        proxy.refusing = False
        bed.start_service()
        m.wait_state("completed")
        m.guest.say("go")
        m.guest.finish()
        m.source_guest.kill()
        shown = m.check_ledger_counts(m.guest)
        lost = shown["memory_total"] - present * 4096
        check(shown["lost_bytes"] == lost, f"{shown['lost_bytes']} bytes are lost, not {lost}")
        check(m.guest.value("off") == 0, "pages are off")


main(test_removed_before_the_kill, test_removal_read_but_not_noted,
     test_removed_while_nobody_is_there, test_deadline_counts_from_the_loss,
     test_given_up_stays_given_up)
