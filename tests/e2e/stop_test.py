# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: the end that waits for guests, the one that does not, and what is said of both."""
import pathlib
import re
import signal
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import BUILD, PATIENCE, Bed, Process, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

STOP_WAITS = "MESSAGE_ID=9f1a2d8750814e5cb5486afd8d45ec25"
EXPORT_STOP_WAITS = "MESSAGE_ID=474e4e8cbbc5402bb8a83df6386b33e0"
MIGRATION_LEFT = "MESSAGE_ID=3695e5b319854da3a4d6e73b634111f8"


def in_the_middle(bed, *start):
    m = bed.migration("ram0:memfd:32M", "ram1:anon:32M", poison=16)
    source = m.source()
    m.start("--bandwidth", "4K", *start)
    guest = m.destination("--pause-after", "200", "--threads", "2")
    guest.wait_event("paused")
    return m, source, guest


def said(process, text):
    return wait_until(f"{process.name}: {text}", lambda: next(
        (line for line in process.log_text().splitlines() if text in line), None))


def term(process, sig=signal.SIGTERM):
    process.popen.send_signal(sig)


def let_finish(bed, m, source, guest):
    bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
    guest.say("go")
    guest.finish()
    source.finish()
    check(guest.value("off") == 0, "pages are off")


def test_drains():
    """The daemon serves to the end, with 0 wrong bytes, takes nothing new, and ends by itself."""
    with Bed() as bed:
        m, source, guest = in_the_middle(bed)
        waiting = bed.migration("ram0:memfd:4M")
        waiting.source()
        waiting.start()
        term(bed.daemon)
        check(m.id in said(bed.daemon, "it goes on, takes no new one"), "the guest is not named")
        line = said(bed.daemon, STOP_WAITS)
        check(f"MIGRATION_ID={m.id}" in line, line)
        check(f"VMM_PID={guest.popen.pid}" in line, line)
        refused = bed.migration("ram0:memfd:4M").start(status=1)
        check("postcopyd is stopping" in refused and "another host" in refused, refused)
        late = waiting.destination()
        late.popen.wait(PATIENCE)
        check("postcopyd is stopping" in late.log_text(), late.log_text())
        check(m.show()["state"] == "postcopy-active", "not served any more")
        let_finish(bed, m, source, guest)
        bed.daemon.finish()
        text = bed.daemon.log_text()
        check("no migration needs this daemon any more" in text, text[-2000:])
        check(MIGRATION_LEFT not in text, "a guest was left")
        check(text.count("MESSAGE_ID=15c51a7cbc2f4839a1cf1cf50692e6de") == guest.value("lost"),
              "the audit is not complete")


def test_second_signal_forces():
    for second in (signal.SIGTERM, signal.SIGINT):
        with Bed() as bed:
            m, _, guest = in_the_middle(bed)
            term(bed.daemon)
            said(bed.daemon, STOP_WAITS)
            term(bed.daemon, second)
            bed.daemon.finish()
            check(m.id in said(bed.daemon, MIGRATION_LEFT), "the log does not say who waits")
            guest.say("go")
            try:
                guest.popen.wait(1)
            except Exception:  # pylint: disable=broad-except
                pass
            check(guest.popen.poll() is None, "the guest went on without its memory")


def test_ends_at_once_without_guests():
    with Bed() as bed:
        bed.migration("ram0:memfd:4M").start()
        term(bed.daemon)
        bed.daemon.finish(timeout=PATIENCE)
        term(bed.agent)
        bed.agent.finish(timeout=PATIENCE)
        check(STOP_WAITS not in bed.daemon.log_text(), "it waited for a guest that is not here")


def test_restart_announced_without_a_store_drains():
    """Nothing would come back: SIGUSR1 changes nothing."""
    with Bed() as bed:
        m, source, guest = in_the_middle(bed)
        term(bed.daemon, signal.SIGUSR1)
        term(bed.daemon)
        said(bed.daemon, STOP_WAITS)
        let_finish(bed, m, source, guest)
        bed.daemon.finish()


def test_drain_ends_with_the_vmm():
    with Bed() as bed:
        _, _, guest = in_the_middle(bed)
        term(bed.daemon)
        said(bed.daemon, STOP_WAITS)
        guest.kill()
        bed.daemon.finish()


def test_source_drains():
    """The agent serves to the end, and refuses new exports meanwhile."""
    with Bed() as bed:
        m, source, guest = in_the_middle(bed)
        term(bed.agent)
        check(m.id in said(bed.agent, "takes no new export"), "the guest is not named")
        said(bed.agent, EXPORT_STOP_WAITS)
        other = bed.migration("ram0:memfd:4M")
        refused = Process(bed, "refused", [
            BUILD / "tests/support/testguest", "source", "--id", other.id, "--token-file", other.token, "--socket",
            bed.dir / "export.sock", "--region", "ram0:memfd:4M", "--peer-identity", "x",
            *other.common])
        refused.popen.wait(PATIENCE)
        check("is stopping" in refused.log_text(), refused.log_text())
        let_finish(bed, m, source, guest)
        check(m.wait_state("completed")["state_text"] == "", "the destination was not answered")
        bed.agent.finish()


def test_source_forced():
    with Bed() as bed:
        m, _, _ = in_the_middle(bed)
        term(bed.agent)
        said(bed.agent, EXPORT_STOP_WAITS)
        term(bed.agent)
        bed.agent.finish()
        check(m.id in said(bed.agent, "their guests wait on other hosts"), "nobody is named")


class Manager:
    """Hears what a daemon tells its service manager after READY=1."""

    def __init__(self, bed):
        path = bed.dir / "postcopyd.notify"
        path.unlink()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE)

    def wait(self, pattern):
        while True:
            text = self.socket.recv(4096).decode()
            if re.search(pattern, text):
                return text


def test_status_line():
    with Bed() as bed:
        manager = Manager(bed)
        m, source, guest = in_the_middle(bed)
        text = manager.wait(r"STATUS=1 live migration \(1 postcopy-active\), .*/s, .* missing")
        check(re.search(r"\d+(\.\d+)? \w+ missing", text), text)
        term(bed.daemon)
        manager.wait("EXTEND_TIMEOUT_USEC=")
        text = manager.wait("STATUS=Stopping")
        check(m.id in text, text)
        let_finish(bed, m, source, guest)
        manager.wait("STOPPING=1")
        bed.daemon.finish()


if __name__ == "__main__":
    main(test_drains, test_second_signal_forces, test_ends_at_once_without_guests,
         test_restart_announced_without_a_store_drains, test_drain_ends_with_the_vmm,
         test_source_drains, test_source_forced, test_status_line)
