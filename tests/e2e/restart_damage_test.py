# SPDX-License-Identifier: Apache-2.0
"""What a daemon finds in the FD store is damaged, of another kind, or incomplete; or the
store is full: a clear error, a guest that waits and is not corrupted, nothing else hurt."""
import os
import pathlib
import select
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position
from supervisor import SupervisedBed  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}


def in_the_middle(bed):
    m = bed.migration("ram0:memfd:16M", poison=4)
    source = m.source()
    m.start("--bandwidth", "64K")
    guest = m.destination("--pause-after", "200", "--threads", "2")
    guest.wait_event("paused")
    return m, source, guest


def copy_of(fd, change=lambda b: b, seal=False):
    """A memfd with the same bytes, changed."""
    size = os.fstat(fd).st_size
    content = bytearray(os.pread(fd, size, 0))
    copy = os.memfd_create("damaged", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.pwrite(copy, bytes(change(content)), 0)
    if seal:
        import fcntl  # pylint: disable=import-outside-toplevel
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return copy


def byte_changed(at):
    def change(content):
        content[at] ^= 0x5a
        return content
    return change


def still_waits(guest):
    """It neither ends nor finds anything wrong: the touching threads are blocked."""
    guest.say("go")
    ready, _, _ = select.select([guest.popen.stdout], [], [], 0.5)
    check(guest.popen.poll() is None, f"the guest ended: {guest.popen.poll()} {guest.events}")
    check(not guest.all("wrong-page"), f"{guest.all('wrong-page')}")
    del ready


def stranded(bed, m, guest, says):
    shown = m.show()
    check(shown["state"] == "failed", f"state {shown['state']}")
    check(says in shown["state_text"], f"expected \"{says}\": {shown['state_text']}")
    check("guest waits" in shown["state_text"], shown["state_text"])
    still_waits(guest)
    check(any(name.startswith(f"{m.id}.uffd") for name in bed.stored()), "nothing is kept")


def test_damage():
    """Each kind of damage is told by its name; what is damaged stays as it is."""
    cases = {
        "state": [
            ("it does not begin with PCPYSTA1", lambda fd: copy_of(fd, lambda b: b"x" * len(b))),
            ("checksum", lambda fd: copy_of(fd, byte_changed(50), seal=True)),
            ("not sealed", copy_of),
            ("is not a memory file", lambda fd: os.open("/dev/null", os.O_RDWR)),
        ],
        "record": [
            ("less than a header", lambda fd: os.memfd_create("empty")),
            ("checksum", lambda fd: copy_of(fd, byte_changed(45))),
        ],
        "uffd0": [("is not a userfaultfd", lambda fd: os.memfd_create("memory"))],
    }
    with SupervisedBed(FAST) as bed:
        for kind, says, make in ((k, *case) for k, v in cases.items() for case in v):
            m, source, guest = in_the_middle(bed)
            other, other_source, other_guest = in_the_middle(bed)
            bed.kill_service()
            supervisor = bed.supervisors["postcopyd"]
            supervisor.replace(f"{m.id}.{kind}", make(supervisor.descriptor(f"{m.id}.{kind}")))
            bed.start_service()
            stranded(bed, m, guest, says)
            bed.ctl("set-limits", other.id, "--bandwidth", "0")
            other_guest.say("go")
            other_guest.finish()
            other_source.finish()
            other.check_ledger(other_guest)
            guest.kill()
            source.kill()


def test_missing_descriptor():
    """A descriptor that is not there is named, and the rest stays."""
    with SupervisedBed(FAST) as bed:
        m, source, guest = in_the_middle(bed)
        bed.kill_service()
        supervisor = bed.supervisors["postcopyd"]
        with supervisor.lock:
            entry = next(e for e in supervisor.store if e[0] == f"{m.id}.state")
            supervisor.store.remove(entry)
        bed.start_service()
        stranded(bed, m, guest, "its state is not in the FD store")
        # A daemon that finds everything goes on.
        bed.kill_service()
        supervisor.store.append(entry)
        bed.start_service()
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


def test_given_up():
    """Only an operator's force, or the VMM's end, gives up what cannot be taken up."""
    with SupervisedBed(FAST) as bed:
        for by_operator in (True, False):
            m, source, guest = in_the_middle(bed)
            bed.kill_service()
            supervisor = bed.supervisors["postcopyd"]
            supervisor.replace(f"{m.id}.state", os.memfd_create("other"))
            bed.start_service()
            said = bed.ctl("cancel", m.id, status=1)
            check("force it to give that up for good" in said, said)
            said = m.start(status=1)
            check("still in the FD store" in said and "cancel --force" in said, said)
            if by_operator:
                bed.ctl("cancel", "--force", m.id)
                still_waits(guest)
            guest.kill()
            wait_until("nothing is kept", lambda i=m.id: not any(
                name.startswith(i) for name in bed.stored()))
            source.kill()


def test_full_store():
    """What has no room is refused before anything happens; what ended makes room first."""
    with SupervisedBed({"migrations": {**FAST["migrations"], "fd_store_max": "11"}},
                       store_max=11) as bed:
        for _ in range(5):
            bed.migration("ram0:memfd:4M").run()
        m, source, guest = in_the_middle(bed)
        n = len([name for name in bed.stored() if name.startswith(m.id)])
        second = bed.migration("ram0:memfd-minor:4M")
        second_source = second.source()
        second.start()
        said = bed.migration("ram0:memfd:4M").start(status=1)
        check("FD store" in said and "FileDescriptorStoreMax=" in said, said)
        many = second.destination("--uffds", "2", regions=["ram0:memfd-minor:2M",
                                                           "ram1:memfd-minor:2M"])
        check(many.popen.wait(60) != 0, "attached, beyond what has room")
        check("FD store" in many.log_text(), many.log_text())
        second.destination(name="second").finish()
        second_source.finish()
        check(len([name for name in bed.stored() if name.startswith(m.id)]) == n, "it suffered")
        bed.restart_service()
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


main(test_damage, test_missing_descriptor, test_given_up, test_full_store)
