# SPDX-License-Identifier: Apache-2.0
"""An operator declares pages lost: the answer comes when that is so for good, and not before.
A lane that stands still (one thread of the daemon, stopped) makes the moment between."""
import pathlib
import socket
import struct
import sys
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from attach_wire import field  # noqa: E402 pylint: disable=wrong-import-position
from e2e import PATIENCE, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position
from thread_stop import StoppedThread  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
FIRST, LENGTH = 0x2a31000, 16 * 4096  # with this seed nobody touches it before the pause


class Control:
    """The control protocol (proto/control.proto) by hand: several requests without waiting."""

    def __init__(self, bed):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(bed.dir / "control.sock"))

    def ask(self, number, kind, body):
        message = field(1, number) + field(kind, body)
        self.socket.sendall(struct.pack("<I", len(message)) + message)

    def poison(self, number, m, address, length):
        self.ask(number, 12, field(1, uuid.UUID(m.id).bytes) +
                 field(2, field(1, address) + field(2, length)))

    def silent(self):
        """Whether nothing has come."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)

    def answer(self):
        """The next one's number and its text; None at the end of the connection."""
        head = self.socket.recv(4, socket.MSG_WAITALL)
        if not head:
            return None
        body = self.socket.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL)
        check(body[0] == 1 << 3, f"an answer without a number: {body!r}")
        return body[1], body[2:].decode(errors="replace")

    def close(self):
        self.socket.close()


def paused(bed, *options):
    """A migration that has a few pages and waits for the word."""
    m = bed.migration("ram0:memfd:64M", poison=4, seed=7)
    m.source_guest = m.source()
    m.start("--bandwidth", "4K")
    m.guest = m.destination("--pause-after", "4", "--threads", "1", "--any-poison", *options)
    m.guest.wait_event("paused")
    return m


def finish(bed, m):
    bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
    m.guest.say("go")
    m.guest.finish()
    m.source_guest.finish()
    m.check_ledger(m.guest)


def ordered(bed, m, control, number=1):
    """A request that the daemon has taken, and whose lane cannot do it; nobody is told."""
    before = bed.daemon.log_text().count(": Poison")
    control.poison(number, m, FIRST, LENGTH)
    wait_until("taken", lambda: bed.daemon.log_text().count(": Poison") > before)
    bed.ctl("list")  # the main thread goes on
    check(control.silent(), "answered before it was done")


def lost(m):
    return sum(p["lost"] for p in m.show()["poisoned"]
               if FIRST <= p["guest_physical_address"] < FIRST + LENGTH)


def test_answered_when_it_is_done():
    """Answers come in the order of the requests, each when it is true; others do not wait."""
    with SupervisedBed(FAST) as bed:
        m, control, other = paused(bed), Control(bed), Control(bed)
        with StoppedThread(bed.daemon.popen.pid, "urgent/0"):
            ordered(bed, m, control)
            control.ask(2, 3, b"")  # List
            ordered(bed, m, other, number=7)
            check(control.silent(), "a later request was answered first")
            other.close()  # does not wait for its answer
            check(lost(m) == 0, "poisoned by whom?")
        check(control.answer() == (1, ""), "refused, or not the first")
        check(lost(m) == LENGTH, f"{lost(m)} bytes are lost")
        check(control.answer()[0] == 2, "the list did not come")
        control.poison(3, m, FIRST, LENGTH)
        check(control.answer() == (3, ""), "not again")
        check(lost(m) == LENGTH, "lost twice")
        control.close()
        finish(bed, m)


def test_acknowledged_is_lost_for_good():
    """A kill right after the answer brings no page back; one before it was no answer."""
    with SupervisedBed(FAST) as bed:
        m = paused(bed)
        for kill_first in (True, False):
            control = Control(bed)
            if kill_first:
                thread = StoppedThread(bed.daemon.popen.pid, "urgent/0")
                ordered(bed, m, control)
                bed.daemon.popen.kill()
                wait_until("dead", thread.killed)
                try:
                    check(control.answer() is None, "acknowledged by a dead daemon")
                except ConnectionResetError:
                    pass
            else:
                control.poison(1, m, FIRST, LENGTH)
                check(control.answer() == (1, ""), "refused")
            bed.restart_service()
            control.close()
        check(lost(m) == LENGTH, f"{lost(m)} bytes are lost")
        finish(bed, m)
        check(m.guest.value("lost") >= LENGTH // 4096, "acknowledged, and readable")


def test_ended_meanwhile():
    """A migration that ends before its lane could act says so; nobody waits for ever."""
    with SupervisedBed(FAST) as bed:
        m, control = paused(bed), Control(bed)
        with StoppedThread(bed.daemon.popen.pid, "urgent/0"):
            ordered(bed, m, control)
            m.guest.kill()
            number, text = control.answer()
            check(number == 1 and "failed before all of that was poisoned" in text, text)
        m.wait_state("failed")  # the main thread has waited for its lane
        control.close()
        m.source_guest.kill()


main(test_answered_when_it_is_done, test_acknowledged_is_lost_for_good, test_ended_meanwhile)
