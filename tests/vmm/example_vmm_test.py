# SPDX-License-Identifier: Apache-2.0
"""client/example_vmm.c does what it tells the authors of VMMs: its guest goes on where it was, on
another VMM, with every page as it left it; and of its pages that really fail (MADV_HWPOISON) on
the source, before the stop or after it, each gives it one machine check, with the page's address,
and no other page does. For a virtual machine with nested KVM only (tests/kernel/run.sh): what has
failed is gone until the machine boots again.
"""
import mmap
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position
from e2e import BUILD, DESTINATION_NAME, Bed, Process, Skip, check, main  # noqa: E402
# pylint: enable=wrong-import-position

EXAMPLE = BUILD / "tests/vmm/example-vmm"
MADV_HWPOISON = 100
PAGE = 4096
BEFORE, AFTER = 0x30000, 0xa5000  # pages that fail before and after the guest stops


def need_machine():
    if not EXAMPLE.exists():
        raise Skip("example_vmm is for x86-64 only")
    if not os.environ.get("POSTCOPY_HWPOISON"):
        raise Skip("memory would stay lost until this machine boots again: ./check.sh kernel")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Skip("no /dev/kvm for this user")


def memory_file(vmm):
    fds = pathlib.Path(f"/proc/{vmm.popen.pid}/fd")
    return open(next(fd for fd in fds.iterdir() if "memfd:guest" in os.readlink(fd)), "r+b")


def fail_page(vmm, address):
    """The page fails under the VMM, whose memory is a memfd."""
    with memory_file(vmm) as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped.madvise(MADV_HWPOISON, address, PAGE)


class Example:
    """One guest and its two VMMs."""

    def __init__(self, bed):
        need_machine()
        self.bed, self.m = bed, bed.migration()
        self.pipe = bed.dir / f"pipe-{self.m.id}"
        os.mkfifo(self.pipe)

    def vmm(self, role, sock, *operands):
        return Process(self.bed, f"example-{role}", [EXAMPLE, role, self.m.id, self.m.token,
                                                     self.pipe, *operands, self.bed.dir / sock])

    def source(self):
        vmm = self.vmm("source", "export.sock", DESTINATION_NAME)
        vmm.wait_event("first-pass", "1")
        return vmm

    def stopped_source(self):
        vmm = self.source()
        vmm.say("stop")
        vmm.wait_event("frozen")
        return vmm

    def destination(self):
        return self.vmm("destination", "attach.sock")

    def check_refusal(self):
        """A daemon that does not know the migration: its own sentence, and an end."""
        said = self.destination().finish(status=1).log_text()
        check("attach: " in said and "postcopyctl start" in said, said)


def test_goes_on():
    with Bed() as bed:
        example = Example(bed)
        example.check_refusal()
        source = example.source()
        fail_page(source, BEFORE)
        source.wait_event("lost", f"{BEFORE:#x}")
        source.say("stop")
        source.wait_event("frozen")
        fail_page(source, AFTER)
        # Slow, so that it is the guest who fetches its pages.
        example.m.start("--bandwidth", "64K")
        destination = example.destination()
        destination.wait_event("lost", f"{AFTER:#x}")
        state = example.m.show()["state"]
        check(state == "postcopy-active", f"the machine check came when it was {state}")
        destination.wait_event("first-pass")
        # Refused if the guest has fetched everything meanwhile.
        bed.ctl("set-limits", example.m.id, "--bandwidth", "0", status=None)
        destination.wait_event("completed")
        destination.say("stop")
        destination.finish()
        source.finish()
        check(source.all("lost") == [f"{BEFORE:#x}"], f"lost there: {source.all('lost')}")
        check(destination.all("lost") == [f"{AFTER:#x}"], f"lost here: {destination.all('lost')}")
        stopped, first = source.value("stopped"), destination.value("first-pass")
        check(first == stopped + 1, f"stopped after pass {stopped}, went on with {first}")
        check(destination.value("stopped") > destination.value("completed"), "it ran no further")
        shown = example.m.show()
        pages = sorted((p["offset"], p["reason"]) for p in shown["poisoned"])
        # The VMM said it, where its guest had met it; the agent found the other one.
        check(pages == [(BEFORE, "reported"), (AFTER, "read error")], f"the ledger has {pages}")
        check(shown["state"] == "completed", f"state {shown['state']}")
        check(shown["postcopy_requests"] > 0, "the guest never had to ask for a page")
        print(f"   {stopped} passes there, {destination.value('stopped') - stopped} here; {pages}; "
              f"{shown['postcopy_requests']} pages asked for")


def test_ends_when_it_must():
    """A byte that changes in the middle of a page, behind the guest's back; and a migration that
    is cancelled while the guest waits for its memory."""
    with Bed() as bed:
        example = Example(bed)
        source = example.stopped_source()
        with memory_file(source) as file:
            os.pwrite(file.fileno(), b"\xff", AFTER + 2000)
        example.m.start()
        destination = example.destination()
        destination.finish(status=2)
        check(f"{AFTER:#x} is not as" in destination.log_text(), destination.log_text())
        source.kill()

        example = Example(bed)
        source = example.stopped_source()
        example.m.start("--bandwidth", "4K")
        destination = example.destination()
        destination.wait_event("running")
        bed.ctl("cancel", "--force", example.m.id)
        destination.finish(status=1)
        check("cancelled: " in destination.log_text(), destination.log_text())


def test_usage():
    need_machine()
    done = subprocess.run([EXAMPLE], capture_output=True, text=True, timeout=10, check=False)
    check(done.returncode == 1 and "source ID TOKENFILE" in done.stderr, done.stderr)


main(test_goes_on, test_ends_when_it_must, test_usage)
