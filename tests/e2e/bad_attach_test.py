# SPDX-License-Identifier: Apache-2.0
"""Bad input from VMMs and operators: a clear text, that one ends, nothing else is disturbed."""
import os
import pathlib
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from attach_wire import ask, field, head  # noqa: E402 pylint: disable=wrong-import-position
from e2e import Bed, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "100ms"}}


def attach_refused(m, *words, **options):
    guest = m.destination("--eager", **options)
    guest.finish(5)
    text = guest.log_text()
    check(all(w.lower() in text.lower() for w in words), f"{words} not in: {text}")
    print(f"   {text.strip()}")


def test_wrong_token():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:8M", poison=4)
        source = m.source()
        m.start()
        attach_refused(m, "token", token=bed.token_file())
        guest = m.destination()  # the right one is still welcome
        guest.finish()
        source.finish()
        m.check_ledger(guest)


def test_unknown_migration():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:8M")
        attach_refused(m, "unknown migration", "postcopyctl start")


def test_second_attach():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:16M", poison=4)
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "10")
        guest.wait_event("paused")
        attach_refused(m, "attached", name="second")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


def tables_differ(word, source, destination):
    with Bed(FAST) as bed:
        m = bed.migration(*source)
        m.source()
        m.start()
        guest = m.destination("--eager", "--threads", "1", regions=destination)

        def told():
            if guest.popen.poll() is not None:
                return word in guest.log_text() + str(m.show()["state_text"])
            return word in m.show()["state_text"]
        wait_until(f"{word} is told", told)
        shown = m.show()
        print(f"   {shown['state']}: {shown['state_text']}")
        check(shown["pages_data"] == 0, "pages were placed")


def test_other_length():
    tables_differ("ram0", ["ram0:memfd:16M"], ["ram0:memfd:8M"])


def test_other_name():
    tables_differ("did not attach", ["ram0:memfd:16M"], ["ram1:memfd:16M"])


def test_region_too_many():
    tables_differ("VMM here attached 2", ["ram0:memfd:16M"], ["ram0:memfd:16M", "ram1:anon:16M"])


def test_region_too_few():
    tables_differ("VMM here attached 1", ["ram0:memfd:16M", "ram1:anon:16M"], ["ram0:memfd:16M"])


def test_minor_alone_is_never_what_happens():
    """A hole must not read as zeros: the daemon registers MISSING beside MINOR."""
    with Bed() as bed:
        bed.migration("ram0:memfd-minor:32M", poison=8).run()


def region(name=b"ram0", gpa=0, hva=1 << 40, length=1 << 20, page_size=4096, backing=1, mode=1,
           uffd=0):
    return field(5, field(1, name) + field(2, gpa) + field(3, hva) + field(4, length) +
                 field(5, page_size) + field(6, backing) + field(7, mode) + field(8, uffd))


def attach_by_hand(m, body, fds, uffds=1):
    """The answer's text to an Attach with these regions and descriptors."""
    return ask(m.bed.dir / "attach.sock", field(1, head(m) + field(4, uffds) + body), fds)


def memory_file():
    fd = os.memfd_create("not-a-userfaultfd")
    os.ftruncate(fd, 1 << 20)
    return fd


def real_uffd():
    return os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)


def test_hand_made_attaches():
    """Each is refused with a text that names what was wrong; then a right one still works."""
    import fcntl  # pylint: disable=import-outside-toplevel
    device = real_uffd()
    uffd = fcntl.ioctl(device, 0xAA00, os.O_CLOEXEC | os.O_NONBLOCK)
    file = memory_file()
    top = (1 << 64) - 4096
    cases = [
        ("no descriptor", region(), [], 1, ["descriptor", "uffd", "userfaultfd"]),
        ("a wrong kind of descriptor", region(), [file], 1, ["userfaultfd"]),
        ("no region", b"", [uffd], 1, ["region"]),
        ("unaligned length", region(length=4097), [uffd], 1, ["ram0"]),
        ("unaligned address", region(hva=(1 << 40) + 1), [uffd], 1, ["ram0"]),
        ("wraps around", region(hva=top, length=1 << 20), [uffd], 1, ["ram0"]),
        ("guest-physical wraps", region(gpa=top, length=1 << 20), [uffd], 1, ["ram0"]),
        ("overlap", region() + region(name=b"ram1", gpa=1 << 30), [uffd], 1, ["ram1", "ram0"]),
        ("same name", region() + region(gpa=1 << 30, hva=1 << 41), [uffd], 1, ["ram0"]),
        ("page size no power of two", region(page_size=12288, length=12288), [uffd], 1,
         ["page_size 12288"]),
        ("page of 2 GiB", region(page_size=1 << 31, length=1 << 31), [uffd], 1,
         ["ram0", "4 KiB to 1 GiB"]),
        ("uffd index too high", region(uffd=7), [uffd], 1, ["ram0", "uffd"]),
        ("minor without a file", region(backing=2, mode=2), [uffd], 1, ["ram0"]),
        ("empty", region(length=0), [uffd], 1, ["length is 0"]),
        ("not mapped", region(), [uffd], 1, ["ram0"]),
    ]
    with Bed() as bed:
        m = bed.migration("ram0:memfd:16M", poison=4)
        source = m.source()
        m.start()
        for what, body, fds, n_uffds, words in cases:
            answer = attach_by_hand(m, body, fds, n_uffds)
            check(any(w in answer for w in words), f"{what}: answer {answer!r}")
            print(f"   {what}: {''.join(c for c in answer[6:] if c.isprintable())}")
        guest = m.destination()
        guest.finish()
        source.finish()
        m.check_ledger(guest)
    for fd in (device, uffd, file):
        os.close(fd)


def test_garbage_on_the_sockets():
    with Bed() as bed:
        for name in ("attach.sock", "control.sock", "export.sock", "source.sock"):
            for data in (b"\xff" * 64, b"\x10\0\0\0" + b"\xff" * 16, b"\0\0\0\0", b"\x01"):
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(20)
                    s.connect(str(bed.dir / name))
                    s.sendall(data)
                    s.shutdown(socket.SHUT_WR)
                    try:
                        while s.recv(4096):
                            pass
                    except ConnectionError:
                        pass
        bed.migration("ram0:memfd:8M", poison=4).run()


def test_start_twice_and_bad_words():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:8M")
        m.start()
        text = m.start(status=1)
        check(m.id in text or "already" in text, text)
        other = bed.migration("ram0:memfd:8M")
        check(bed.ctl("show", other.id, status=1), "no text for an unknown migration")
        text = m.bed.ctl("start", other.id, "--source", "nowhere", "--peer", "a", "--token-file",
                         other.token, status=2)
        check("HOST:PORT" in text, text)


def test_not_frozen():
    """Nothing is served before the source is frozen; faults wait, then run."""
    with Bed(FAST) as bed:
        m = bed.migration("ram0:memfd:32M", "ram1:anon:32M", poison=16)
        source = m.source(freeze=False)
        m.start()
        guest = m.destination("--eager")
        guest.wait_event("touching")
        shown = m.wait_state("active")
        wait_until("faults have been read", lambda: m.show()["faults"] > 0)
        shown = m.show()
        check(shown["pages_data"] + shown["pages_zero"] == 0, "served before the freeze")
        source.say("freeze")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


main(test_wrong_token, test_unknown_migration, test_second_attach, test_other_length,
     test_other_name, test_region_too_many, test_region_too_few,
     test_minor_alone_is_never_what_happens, test_hand_made_attaches,
     test_garbage_on_the_sockets, test_start_twice_and_bad_words, test_not_frozen)
