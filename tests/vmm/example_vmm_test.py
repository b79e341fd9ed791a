# SPDX-License-Identifier: Apache-2.0
"""client/example_vmm.c does what it tells VMM authors: its guest counts on in every page on the
other host, and a page that is lost gives it a machine check, in each pass, and nothing else."""
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position
from e2e import BUILD, DESTINATION_NAME, Bed, Process, Skip, check, main  # noqa: E402
# pylint: enable=wrong-import-position

LOST = 0x50000


class Example:
    """The two ends of one guest."""

    def __init__(self, bed):
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Skip("no /dev/kvm for this user")
        if not (BUILD / "tests/vmm/example-vmm").exists():
            raise Skip("example_vmm is for x86-64 only")
        self.bed, self.m = bed, bed.migration()
        self.state = bed.dir / "vcpu-state"
        os.mkfifo(self.state)

    def run(self, role, sock, *args):
        return Process(self.bed, f"example-{role}",
                       [BUILD / "tests/vmm/example-vmm", role, self.m.id, self.m.token,
                        self.state, *args], {"POSTCOPY_SOCKET": str(self.bed.dir / sock)})


def passes(process):
    return [int(v) for v in process.all("pass")]


def migrated(lost):
    with Bed() as bed:
        e = Example(bed)
        source = e.run("source", "export.sock", DESTINATION_NAME)
        source.wait_event("pass", "3")
        if lost:
            bed.ctl("poison", e.m.id, f"{lost:#x}+4096", on_source=True)
        e.m.start("--bandwidth", "64K")
        destination = e.run("destination", "attach.sock")
        source.say("go")
        destination.wait_event("running")
        destination.wait_event("pass")
        bed.ctl("set-limits", e.m.id, "--bandwidth", "0", status=None)
        destination.finish()
        source.finish()
        shown = e.m.show()
        check(shown["state"] == "completed", shown["state"])
        check(passes(destination)[0] == passes(source)[-1] + 1,
              f"{passes(source)[-3:]}, and then {passes(destination)}")
        check(not source.all("sigbus"), "a page was lost on the source")
        return shown, destination


def test_counts_on():
    _, destination = migrated(0)
    check(not destination.all("sigbus"), "a page was lost")


def test_a_lost_page_is_a_machine_check():
    shown, destination = migrated(LOST)
    check(shown["lost_bytes"] == 4096, str(shown["lost_bytes"]))
    in_all = len(passes(destination))
    check(in_all >= 4, f"{in_all} passes")
    check(destination.all("sigbus") == [f"{LOST:#x}"] * in_all, str(destination.all("sigbus")))
    check(destination.all("lost") == [f"{LOST:#x}"] * in_all, str(destination.all("lost")))


def test_says_what_is_wrong():
    """A daemon that does not know the migration: its own sentence, and an end."""
    with Bed() as bed:
        e = Example(bed)
        destination = e.run("destination", "attach.sock")
        check(destination.popen.wait(30) == 1, "no end")
        check(re.search("attach: unknown migration .*postcopyctl start", destination.log_text()),
              destination.log_text())


main(test_counts_on, test_a_lost_page_is_a_machine_check, test_says_what_is_wrong)
