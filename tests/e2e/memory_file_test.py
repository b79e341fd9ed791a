# SPDX-License-Identifier: Apache-2.0
"""A snapshot's memory file as the source: no guest runs on the source host any more. What the
file cannot give is lost, never zeros, and the agent lives."""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import DESTINATION_NAME, Bed, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
SIZES = (12, 4)  # MiB, of mem0 and mem1
TOTAL = sum(SIZES) << 20


def memory_of(pid, name):
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(fd).startswith(f"/memfd:{name} "):
            return fd.read_bytes()
    raise AssertionError(f"{pid} has no memory called {name}")


def snapshot(bed, poison=0):
    """(migration, the file, the list of what is lost): a guest has run here, and has ended."""
    owner = bed.migration(*(f"mem{i}:memfd:{s}M" for i, s in enumerate(SIZES)), poison=poison,
                          packed=True)
    guest = owner.source()
    path, lost = bed.dir / f"{owner.name}.mem", bed.dir / f"{owner.name}.lost"
    path.write_bytes(b"".join(memory_of(guest.popen.pid, f"mem{i}") for i in range(len(SIZES))))
    lost.write_text("# what the hardware has lost\n" + "".join(
        f"{p['guest_physical_address']:#x}+{p['lost']}\n"
        for p in owner.show(on_source=True)["poisoned"]))
    guest.kill()
    m = bed.migration(*(f"mem{i}:anon:{s}M" for i, s in enumerate(SIZES)))
    m.common = owner.common  # the same content
    m.path = bed.dir / f"{m.name}.sock"
    return m, path, lost


def export(bed, m, path, *options, status=0, table=("mem0=0:0:12M", "mem1=12M:12M:4M")):
    return bed.ctl("export-file", m.id, "--file", path, "--peer", DESTINATION_NAME,
                   "--token-file", m.token, *options, *table, on_source=True, status=status)


def finish(m, guest):
    guest.wait_event("touched")
    m.wait_state("completed")
    guest.say("verify")
    guest.finish()
    check(guest.value("off") == 0, f"wrong: {guest.all('wrong-page')}")
    m.check_ledger(guest)
    m.wait_state("released", on_source=True)


def test_snapshot():
    """A Firecracker guest is resumed on another host from the file that was left here."""
    with Bed(FAST) as bed:
        m, path, lost = snapshot(bed, poison=16)
        export(bed, m, path, "--poisoned", lost)
        shown = m.show(on_source=True)
        check(shown["state"] == "frozen" and shown["lost_bytes"] == 16 * 4096, str(shown))
        path.unlink()  # it is open
        m.start("--firecracker-socket", m.path)
        guest = m.firecracker(m.path, 16)
        finish(m, guest)
        check(guest.value("lost") == 16, f"{guest.value('lost')} are lost")


def test_agent_killed():
    """The agent is started again in the middle, and still has the file."""
    with SupervisedBed(FAST, supervised=("postcopy-sourced",)) as bed:
        m, path, lost = snapshot(bed, poison=8)
        export(bed, m, path, "--poisoned", lost)
        bed.restart_service("postcopy-sourced")
        m.start("--firecracker-socket", m.path, "--bandwidth", "64K")
        guest = m.firecracker(m.path, 16, "--pause-after", "100")
        guest.wait_event("paused")
        bed.restart_service("postcopy-sourced")
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.say("go")
        finish(m, guest)


def test_file_shrinks():
    """What somebody has cut off is lost, page by page, and nothing else is."""
    with Bed(FAST) as bed:
        m, path, _ = snapshot(bed)
        export(bed, m, path)
        m.start("--firecracker-socket", m.path, "--bandwidth", "64K")
        guest = m.firecracker(m.path, 16, "--pause-after", "20", "--threads", "2", "--any-poison")
        guest.wait_event("paused")
        os.truncate(path, TOTAL - (1 << 20) - 100)  # in the middle of a page
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        finish(m, guest)
        lost = [int(o) + (int(r[3:]) * SIZES[0] << 20)
                for r, o in (v.split() for v in guest.all("lost-page"))]
        check(lost and min(lost) >= TOTAL - (1 << 20) - 4096, f"lost from {min(lost):#x} on")
        check(len(lost) > 100, f"only {len(lost)} are lost")
        check(bed.agent.popen.poll() is None, "the agent has ended")


def test_bad_files():
    """Each has a text, and the right one still goes."""
    with Bed(FAST) as bed:
        m, path, lost = snapshot(bed)
        bad = bed.dir / "bad"
        bad.write_text("0x1000\n0x2000 0x3000\n")
        for file, options, table, status, word in (
                (bed.dir / "no", (), ("mem0=0:0:12M",), 2, "No such file"),
                (bed.dir, (), ("mem0=0:0:12M",), 1, "neither a memory file"),
                (path, (), ("mem0=0:0:12M", "mem1=12M:12M:8M"), 1, "region mem1"),
                (path, (), ("mem0=0:0:12M", "mem0=12M:12M:4M"), 1, "not unique"),
                (path, (), ("mem0=0:0",), 2, "NAME=GPA:OFFSET:LENGTH"),
                (path, ("--poisoned", bad), ("mem0=0:0:12M",), 2, "line 2"),
                (path, ("--poisoned", bed.dir / "none"), ("mem0=0:0:12M",), 2, "No such file")):
            said = export(bed, m, file, *options, table=table, status=status)
            check(word in said, f"{word!r} expected: {said}")
        beyond = bed.dir / "beyond"
        beyond.write_text("1G\n")
        said = export(bed, m, path, "--poisoned", beyond, status=1)
        check("0x40000000" in said, said)
        check(m.show(on_source=True)["state"] == "withdrawn", str(m.show(on_source=True)))
        export(bed, m, path, "--poisoned", lost)
        m.start("--firecracker-socket", m.path)
        finish(m, m.firecracker(m.path, 16))
        wait_until("the socket has gone", lambda: not m.path.exists())


main(test_snapshot, test_agent_killed, test_file_shrinks, test_bad_files)
