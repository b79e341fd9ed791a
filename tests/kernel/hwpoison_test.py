# SPDX-License-Identifier: Apache-2.0
"""Memory that really fails (MADV_HWPOISON) on the source: the agent finds it when it reads, and
exactly those pages are lost at the destination, with BUS_MCEERR_AR and the right size.

Pages that failed are gone until the machine boots again: for a virtual machine only (run.sh).
"""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, HugePages, Skip, check, main  # noqa: E402 pylint: disable=wrong-import-position


def need_memory_failure():
    if not os.environ.get("POSTCOPY_HWPOISON"):
        raise Skip("memory would stay lost until this machine boots again: ./check.sh kernel")
    if not os.path.exists("/proc/sys/vm/memory_failure_recovery"):
        raise Skip("kernel without CONFIG_MEMORY_FAILURE")


def migrate(source_region, destination_region, *options, lsb=12, poison=24):
    """How many pages the guest lost. That each is wrong nowhere, the two guests have checked."""
    need_memory_failure()
    with Bed() as bed:
        m = bed.migration(source_region, poison=poison)
        source = m.source("--hwpoison", *[o for o in options if o == "--by-process"])
        check(source.value("hwpoisoned") == poison, f"{source.value('hwpoisoned')} failed")
        m.start()
        guest = m.destination(*[o for o in options if o != "--by-process"],
                              regions=[destination_region])
        guest.finish()
        source.finish()
        shown = m.check_ledger_counts(guest)
        check(shown["state"] == "completed", shown["state"])
        reasons = {p["reason"] for p in shown["poisoned"]}
        check(reasons == {"read error"}, f"reasons {reasons}: nobody had reported a page")
        check(guest.value("sigbus-mceerr-ar") > 0 and guest.value("sigbus-adrerr") == 0,
              "another SIGBUS than BUS_MCEERR_AR")
        check(guest.all("sigbus-lsb") == [str(lsb)], f"si_addr_lsb {guest.all('sigbus-lsb')}")
        print(f"   {guest.value('lost')} pages lost, each SIGBUS BUS_MCEERR_AR with lsb {lsb}")
        return guest.value("lost")


def test_memfd():
    lost = migrate("ram0:memfd:16M", "ram0:memfd:16M")
    check(lost == 24, f"{lost} lost instead of 24")


def test_memfd_minor():
    lost = migrate("ram0:memfd:16M", "ram0:memfd-minor:16M")
    check(lost == 24, f"{lost} lost instead of 24")


def test_memfd_through_the_process():
    lost = migrate("ram0:memfd:16M", "ram0:memfd:16M", "--by-process")
    check(lost == 24, f"{lost} lost instead of 24")


def test_anonymous():
    lost = migrate("ram0:anon:16M", "ram0:anon:16M")
    check(lost == 24, f"{lost} lost instead of 24")


def test_hugetlb():
    """The first and the last unit of sixteen."""
    with HugePages(32):
        lost = migrate("ram0:hugetlb:32M", "ram0:hugetlb:32M", lsb=21, poison=4)
    check(lost == 2 * 512, f"{lost} lost instead of 1024")


def test_hugetlb_to_small_pages():
    """Linux 6.1 cannot read what is healthy in a huge page that failed; later kernels can, so that
    4 KiB are lost, not 2 MiB. (One failure a huge page: no kernel takes a second.)"""
    with HugePages(16):
        lost = migrate("ram0:hugetlb:32M", "ram0:memfd:32M", "--any-poison", poison=2)
    check(lost in (2, 2 * 512), f"{lost} lost instead of 2 or 1024")


main(test_memfd, test_memfd_minor, test_memfd_through_the_process, test_anonymous, test_hugetlb,
     test_hugetlb_to_small_pages)
