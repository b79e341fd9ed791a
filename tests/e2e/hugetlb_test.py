# SPDX-License-Identifier: Apache-2.0
"""2 MiB pages: a unit is placed as a whole, and a lost 4 KiB page takes its whole unit along."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, HugePages, check, main  # noqa: E402 pylint: disable=wrong-import-position


def migrate(source, destination, pages, options=()):
    with HugePages(pages), Bed() as bed:
        m = bed.migration(source, poison=6)
        m.regions = [source]
        agent = m.source()
        m.start()
        guest = m.destination(*options, regions=[destination])
        guest.finish()
        agent.finish()
        shown = m.check_ledger(guest)
        check(shown["state"] == "completed", shown["state"])
        return guest.value("lost"), len(shown["poisoned"])


def test_hugetlb_to_hugetlb():
    lost, entries = migrate("ram0:hugetlb:64M", "ram0:hugetlb:64M", 64)
    check(lost == 512 * entries, f"{lost} pages lost in {entries} units")


def test_hugetlb_to_hugetlb_registered():
    migrate("ram0:hugetlb:64M", "ram0:hugetlb:64M", 64, ["--registered"])


def test_hugetlb_minor():
    lost, entries = migrate("ram0:hugetlb:64M", "ram0:hugetlb-minor:64M", 64)
    check(lost == 512 * entries, f"{lost} pages lost in {entries} units")


def test_hugetlb_minor_registered():
    migrate("ram0:hugetlb:64M", "ram0:hugetlb-minor:64M", 64, ["--registered"])


def test_small_pages_to_hugetlb():
    lost, entries = migrate("ram0:memfd:64M", "ram0:hugetlb:64M", 32)
    check(lost == 512 * entries, f"{lost} pages lost in {entries} units")


def test_hugetlb_to_small_pages_keeps_the_healthy_ones():
    lost, _ = migrate("ram0:hugetlb:64M", "ram0:memfd:64M", 32)
    check(lost == 6, f"{lost} lost pages instead of 6")


main(test_hugetlb_to_hugetlb, test_hugetlb_to_hugetlb_registered, test_hugetlb_minor,
     test_hugetlb_minor_registered, test_small_pages_to_hugetlb, test_hugetlb_to_small_pages_keeps_the_healthy_ones)
