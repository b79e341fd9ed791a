# SPDX-License-Identifier: Apache-2.0
"""Huge pages after the migration: exactly what was lost stays lost, all else is right."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, Skip, check, cut_region, main  # noqa: E402 pylint: disable=wrong-import-position

HUGE = 2 << 20


def need_collapse():
    path = pathlib.Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not path.exists():
        raise Skip("this kernel has no transparent huge pages")
    if int(path.read_text()) != HUGE:
        raise Skip("huge pages of another size than 2 MiB")


def check_collapse(guest, total, poisoned):
    """The sums agree, the list is the guest's own experience, and there are huge pages."""
    listed = set()
    for region, offset, length in (v.split() for v in guest.all("listed")):
        listed |= {f"{region} {int(offset) + i}" for i in range(0, int(length), 4096)}
    check(listed == set(guest.all("lost-page")), f"listed {sorted(listed)}")
    check(guest.value("collapse-done") == 1, "it did not go over everything")
    check(guest.value("collapse-total") == total, f"total {guest.value('collapse-total')}")
    check(guest.value("collapse-poison") == poisoned, f"poison {guest.value('collapse-poison')}")
    rest = sum(guest.value(f"collapse-{w}") for w in ("huge", "unsuitable", "failed"))
    check(rest == total - poisoned, f"{rest} of {total - poisoned}")
    print(f"   {guest.value('collapse-huge') >> 20} of {total >> 20} MiB are huge, "
          f"{guest.value('collapse-failed') >> 20} MiB failed, {guest.value('lost')} lost")
    check(guest.value("collapse-failed") or guest.value("collapse-huge") == total - poisoned,
          "not all healthy memory is huge")


def huge_total(regions):
    """Bytes in whole huge pages: all regions begin at one."""
    sizes = [cut_region(r).split(":")[2] for r in regions]
    return sum((int(s[:-1]) << 20) // HUGE * HUGE for s in sizes if s.endswith("M"))


def collapse(*regions, poison=0, options=()):
    need_collapse()
    with Bed() as bed:
        _, _, guest = bed.migration(*regions, poison=poison).run((), ["--collapse", *options])
        pages = {(r, int(o) // HUGE) for r, o in (v.split() for v in guest.all("lost-page"))
                 if not r.startswith("tiny")}
        check_collapse(guest, huge_total(regions), len(pages) * HUGE)
        return guest


def test_anonymous():
    collapse("ram0:anon:64M", poison=12)


def test_memfd():
    collapse("ram0:memfd:64M", poison=12)


def test_memfd_minor():
    collapse("ram0:memfd-minor:64M", poison=12)


def test_nothing_lost():
    guest = collapse("ram0:memfd:32M", "ram1:anon:32M")
    check(guest.value("listed-ranges") == 0, "something is listed")


def test_mixed_lanes_and_small_regions():
    collapse("ram0:memfd:16M", "tiny:anon:64K", "ram1:anon:16M", "tiny2:memfd:1M",
             poison=6, options=["--uffds", "2", "--registered"])


def test_split_anonymous():
    """Borders between the userfaultfds are none between huge pages, and divide none."""
    collapse("ram0:anon:64M", poison=14, options=["--split", "4"])
    collapse("ram0:anon:64M", "tiny:anon:64K", options=["--split", "3"], poison=0)


def test_split_memfd():
    collapse("ram0:memfd-minor:64M", poison=14, options=["--split", "3"])


def test_more_than_one_reply():
    """Hundreds of lost pages apart from each other: the list comes in several pieces."""
    guest = collapse("ram0:memfd:64M", poison=500)
    check(guest.value("listed-ranges") > 256, f"{guest.value('listed-ranges')} ranges")


def borders(kind):
    """First and last page of huge pages, and one range over a border."""
    need_collapse()
    with Bed() as bed:
        m = bed.migration(f"ram0:{kind}:24M")
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "1", "--threads", "1", "--any-poison", "--collapse")
        guest.wait_event("paused")
        bed.ctl("poison", m.id, "0x400000", "0x9ff000", "0xbff000+8192", "0x17ff000")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)
        # The page that the guest had touched before may be one of them, but not all.
        check(guest.value("lost") >= 4, f"{guest.value('lost')} lost")
        pages = {int(v.split()[1]) // HUGE for v in guest.all("lost-page")}
        check_collapse(guest, 24 << 20, len(pages) * HUGE)


def test_borders_anonymous():
    borders("anon")


def test_borders_memfd():
    borders("memfd")


main(test_anonymous, test_memfd, test_memfd_minor, test_nothing_lost,
     test_mixed_lanes_and_small_regions, test_split_anonymous, test_split_memfd, test_more_than_one_reply, test_borders_anonymous,
     test_borders_memfd)
