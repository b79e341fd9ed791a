# SPDX-License-Identifier: Apache-2.0
"""The whole promise, with a real virtual machine: a guest on /dev/kvm walks over its memory, moves
to another VMM in the middle of an instruction stream, and goes on while its memory is still on
the source. Pages that have really failed there (MADV_HWPOISON) give it a machine check each; its
handler notes them, and the walk goes on to the end. No healthy page is wrong, stale or zero.

The guest knows nothing of all this. Its own list, on its console, must be the plan, and the
daemon's ledger and log must name the same pages. Pages that failed are gone until the machine
boots again: for a virtual machine with nested KVM only (tests/kernel/run.sh).
"""
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position
from e2e import BUILD, DESTINATION_NAME, PATIENCE  # noqa: E402
from e2e import Bed, HugePages, Process, Skip, check, main  # noqa: E402
# pylint: enable=wrong-import-position

SHOWN_LINES = 45  # of a guest's console
BEFORE_THE_STOP = 2  # walks that each vCPU has made, so that pages have several generations


def need_machine():
    if not os.environ.get("POSTCOPY_HWPOISON"):
        raise Skip("memory would stay lost until this machine boots again: ./check.sh kernel")
    if not os.path.exists("/proc/sys/vm/memory_failure_recovery"):
        raise Skip("kernel without CONFIG_MEMORY_FAILURE")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Skip("no /dev/kvm for this user")
    if not (BUILD / "tests/vmm/testvmm").exists():
        raise Skip("testvmm is for x86-64 only")


class Vm:
    """One guest, its two VMMs, and its migration."""

    def __init__(self, bed, memory="memfd:8", vcpus=1, poison=24, running=0, late=0):
        self.bed = bed
        self.m = bed.migration()
        self.huge = memory.startswith("hugetlb")
        self.vcpus, self.poison, self.running, self.late = vcpus, poison, running, late
        self.common = ["--memory", memory, "--vcpus", vcpus, "--poison", poison,
                       "--running", running, "--late", late, "--seed", 0x6d6365,
                       "--state", bed.dir / "vcpu-state"]
        self.source = self.destination = None

    def _vmm(self, role, sock, *options):
        return Process(self.bed, f"vmm-{role}",
                       [BUILD / "tests/vmm/testvmm", role, "--id", self.m.id,
                        "--token-file", self.m.token, "--socket", self.bed.dir / sock,
                        "--timeout", PATIENCE * 2, *self.common, *options])

    def _wait_walked(self, walks):
        for vcpu in range(self.vcpus):
            self.source.wait_event("walked", f"{vcpu} {walks}")

    def start_source(self, *options):
        self.source = self._vmm("source", "export.sock", "--peer-identity", DESTINATION_NAME,
                                *options)
        try:
            self.source.wait_event("exported")
        except AssertionError:
            if self.source.popen.poll() == 77:
                raise Skip(self.source.log_text().strip().splitlines()[-1]) from None
            raise
        self._wait_walked(BEFORE_THE_STOP)
        if self.running:
            self.source.say("fail")
            self.source.wait_event("failed-running")
            # The walk that it was in, and a whole one: the guest has met every one of them here.
            walks = max(int(v.split()[1]) for v in self.source.all("walked"))
            self._wait_walked(walks + 2)
        self.source.say("stop")
        self.source.wait_event("frozen", timeout=PATIENCE)

    def start_destination(self, *options):
        self.destination = self._vmm("destination", "attach.sock", *options)
        self.destination.wait_event("running")

    def migrate(self, source_options=(), destination_options=(), status=0):
        """The daemon's view at the end; the stream is slow, so that the walk fetches the pages."""
        try:
            self._migrate(source_options, destination_options, status)
        finally:
            self.show_console()
        return self.m.show()

    def _migrate(self, source_options, destination_options, status):
        self.start_source(*source_options)
        self.m.start("--bandwidth", "64K")
        self.start_destination(*destination_options)
        if self.late:
            self.source.say("late")
            self.source.wait_event("failed-late")
        if not self.huge:
            self.destination.wait_event("lost")
            state = self.m.show()["state"]
            check(state in ("active", "postcopy-active"),
                  f"the first machine check came when the migration was {state}")
        self.destination.wait_event("walked")
        # Refused if the walk has fetched everything, and the migration is complete.
        self.bed.ctl("set-limits", self.m.id, "--bandwidth", "0", status=None)
        self.destination.finish(status)

    def show_console(self):
        """What the guest said, on one host and then on the other."""
        for vmm in filter(None, (self.source, self.destination)):
            for _, value in [e for e in vmm.events if e[0] in ("saved", "loaded")]:
                print(f"   [{vmm.name}] {value}")
            lines = vmm.all("console")
            for line in lines[:SHOWN_LINES]:
                print(f"   {vmm.name} | {line}")
            if len(lines) > SHOWN_LINES:
                print(f"   {vmm.name} | ... {lines[-2]}")


def logged_offsets(bed, vm):
    """The pages that the daemon's log names."""
    pattern = rf"migration {vm.m.id}: poisoned: region ram0, offset (0x[0-9a-f]+),"
    return {int(offset, 0) for offset in re.findall(pattern, bed.daemon.log_text())}


def check_machine_checks(vm):
    """Each was a SIGBUS for an access, with the kernel's code and size for it, and the guest took
    exactly as many as the two VMMs have injected: none was lost on the way, none came twice."""
    events = vm.destination.all("lost")
    check(all(e.endswith(" code 4 lsb 12") for e in events), f"not BUS_MCEERR_AR: {events[:3]}")
    injected = vm.source.value("machine-checks") + vm.destination.value("machine-checks")
    taken = vm.destination.value("taken")
    check(injected == taken, f"{injected} machine checks injected, {taken} taken by the guest")


def walk(late_lost=0, **options):
    """A walk to the end, with every promise checked."""
    need_machine()
    with Bed() as bed:
        vm = Vm(bed, **options)
        shown = vm.migrate()
        vm.source.finish()
        guest = vm.destination
        check(vm.source.all("saved") == guest.all("loaded"), "other instructions")
        check(shown["state"] == "completed", f"state {shown['state']}")
        check(shown["memory_remaining"] == 0, f"remaining {shown['memory_remaining']}")
        lost = guest.value("lost-pages")
        check(vm.poison + late_lost <= lost <= vm.poison + vm.late,
              f"{lost} pages lost; {vm.poison} failed before, {vm.late} while it ran")
        vm.m.check_ledger(guest)
        offsets = {int(v.split()[1]) for v in guest.all("lost-page")}
        check(logged_offsets(bed, vm) == offsets, "the daemon's log names other pages")
        check_machine_checks(vm)
        check(shown["postcopy_requests"] > 0, "the walk never had to ask for a page")
        print(f"   {lost} pages lost, {guest.value('machine-checks')} machine checks, "
              f"{guest.value('healthy')} pages right, 0 wrong, "
              f"{shown['postcopy_requests']} pages asked for by the guest's walk")
        return vm, shown


def reasons(shown):
    return {p["reason"] for p in shown["poisoned"]}


def test_one_vcpu():
    """Nobody reports a page: the agent finds them when the guest asks."""
    _, shown = walk()
    check(reasons(shown) == {"read error"}, f"reasons {reasons(shown)}")


def test_two_vcpus():
    walk(memory="memfd:12", vcpus=2, poison=32)


def test_anonymous():
    walk(memory="anon:8")


def test_fail_while_walking_there():
    """Pages that fail on the source after the guest has begun to fetch its memory. Those that were
    sent already were read healthy and stay; the others are lost."""
    walk(poison=8, late=16, late_lost=1)


def test_fail_while_walking_here():
    """The guest has met the lost pages on the source: the same pages are lost for it after the
    migration, and those that failed since then."""
    vm, shown = walk(vcpus=2, poison=24, running=12)
    check(vm.source.value("machine-checks") >= 12, "no machine check on the source")
    check(reasons(shown) >= {"read error"} and len(reasons(shown)) == 2,
          f"reasons {reasons(shown)}")


def test_hugetlb():
    """A huge page is lost as a whole: each of its 512 pages is a machine check."""
    need_machine()
    with HugePages(24), Bed() as bed:
        vm = Vm(bed, memory="hugetlb:8", poison=1)
        shown = vm.migrate()
        vm.source.finish()
        lost = vm.destination.value("lost-pages")
        check(lost == 512, f"{lost} lost instead of 512")
        check(shown["lost_bytes"] == 2 << 20, f"lost_bytes {shown['lost_bytes']}")
        check_machine_checks(vm)


def sabotage(text, source_options=(), destination_options=()):
    """A defect that the guest or its VMM must notice."""
    need_machine()
    with Bed() as bed:
        vm = Vm(bed, memory="memfd:4", poison=4)
        vm.migrate(source_options, destination_options, status=1)
        differences = vm.destination.all("differs")
        check(any(text in d for d in differences), f"not noticed: {differences}")
        print(f"   noticed: {differences[:3]}")


def test_notices_no_injection():
    """Without the machine check the guest cannot go on: its instruction is never done."""
    need_machine()
    with Bed() as bed:
        vm = Vm(bed, memory="memfd:4", poison=4)
        vm.start_source()
        vm.m.start()
        vm.start_destination("--sabotage", "no-injection")
        vm.destination.wait_event("lost", "0:100 ")
        pages = {e.split()[1] for e in vm.destination.all("lost")}
        check(len(pages) == 1, f"the vCPU has come from one lost page to the next: {pages}")
        check(not vm.destination.all("guest-ended"), "the guest has come to its end")
        print(f"   noticed: 100 times SIGBUS for page {pages.pop()}, and no step further")


def test_notices_wrong_address():
    sabotage("is healthy, and gave a machine check",
             destination_options=["--sabotage", "wrong-address"])


def test_notices_changed_page():
    sabotage("healthy pages wrong: 1 instead of 0",
             source_options=["--sabotage", "changed-page"])


def test_notices_zero_page():
    sabotage("healthy pages wrong: 1 instead of 0", source_options=["--sabotage", "zero-page"])


main(test_one_vcpu, test_two_vcpus, test_anonymous, test_fail_while_walking_there,
     test_fail_while_walking_here, test_hugetlb, test_notices_no_injection,
     test_notices_wrong_address, test_notices_changed_page, test_notices_zero_page)
