# SPDX-License-Identifier: Apache-2.0
"""A guest that libpostcopy splits over several userfaultfds: no byte is wrong, and lost is
exactly what was, on either side of each border, too. Outside nobody sees the pieces."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import PATIENCE, Bed, HugePages, Proxy, Skip, check, cut_region, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
REGION = "ram0:{}:64M"
REFUSED = 5  # testguest's exit status (support/guest.h)


def size_of(region):
    return int(cut_region(region).split(":")[2][:-1]) << 20


def check_shown(shown, regions, pieces):
    """Each region once, and whole; in so many pieces each."""
    found = [(r["name"], r["length"], r["pieces"]) for r in shown["regions"]]
    check(found == [(r.split(":")[0], size_of(r), pieces) for r in regions],
          str(shown["regions"]))


def split(*regions, lanes=4, pieces=None, poison=24, touched=50):
    with Bed() as bed:
        m = bed.migration(*regions, poison=poison, late=4)
        source = m.source("--read-poison")
        m.start("--bandwidth", "4K")
        guest = m.destination("--split", str(lanes), "--pause-after", str(touched))
        guest.wait_event("paused")
        shown = m.show()
        check(shown["lanes"] == lanes, f"{shown['lanes']} lanes")
        if pieces:
            check_shown(shown, regions, pieces)
        source.say("late")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        shown = m.check_ledger(guest)
        check(shown["state"] == "completed" and shown["memory_remaining"] == 0, str(shown))
        check(guest.value("off") == 0, "pages are off")
        if pieces:
            check_shown(json.loads(bed.http(f"/v1/migrations/{m.id}")[1]), regions, pieces)
        print(f"   {guest.value('lost')} lost, {shown['faults']} faults, "
              f"{shown['pages_urgent']} urgent, {shown['pages_stream']} by the stream")


def test_anonymous():
    split(REGION.format("anon"), pieces=4)


def test_memfd():
    split(REGION.format("memfd"))


def test_memfd_minor():
    split(REGION.format("memfd-minor"), pieces=4)


def test_hugetlb():
    with HugePages(64):
        split(REGION.format("hugetlb"), poison=14, touched=1)


def test_hugetlb_minor():
    with HugePages(64):
        split(REGION.format("hugetlb-minor"), poison=14, touched=1, pieces=4)


def test_several_regions():
    split("bios:anon:64K", "ram0:memfd-minor:24M", "ram1:anon:40M", "rom:memfd:12K", lanes=3,
          poison=40)


def test_stripes():
    """So much memory that each lane has several pieces of it."""
    if size_of("ram0:anon:256M") < 256 << 20:
        raise Skip("the guest is too small for stripes")
    split("ram0:anon:256M", lanes=2, poison=64, pieces=4)


def test_one_lane():
    split("ram0:memfd:16M", "ram1:anon:16M", lanes=1,
          pieces=1)


def test_lost_over_the_borders():
    """What an operator of either host declares lost is one range on both sides of a border,
    and on the wire one run; for the VMM, too."""
    with Bed() as bed:
        m = bed.migration(REGION.format("memfd-minor"))
        quarter = size_of(m.regions[0]) // 4
        source = m.source()
        borders = [quarter, 2 * quarter, 3 * quarter]
        ranges = [f"{b - 8 * 4096:#x}+{16 * 4096}" for b in borders]
        bed.ctl("poison", m.id, ranges[0], on_source=True)
        m.start("--bandwidth", "4K")
        guest = m.destination("--split", "4", "--threads", "1", "--pause-after", "1",
                              "--any-poison", "--collapse")
        guest.wait_event("paused")
        bed.ctl("poison", m.id, *ranges[1:])
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)
        # But for what had come before: the first pages of each lane, and the one touched.
        lost = {int(v.split()[1]) for v in guest.all("lost-page")}
        check(set(range(quarter - 8 * 4096, quarter + 8 * 4096, 4096)) <= lost, "told ahead")
        for b in borders:
            check(sum(b - 8 * 4096 <= page < b for page in lost) >= 7, f"lost below {b:#x}")
            check(sum(b <= page < b + 8 * 4096 for page in lost) >= 3, f"lost from {b:#x} on")
        listed = set()
        for offset, length in (map(int, v.split()[1:]) for v in guest.all("listed")):
            listed |= set(range(offset, offset + length, 4096))
        check(listed == lost, f"listed, not lost {listed - lost}; lost only {lost - listed}")


def test_given_back_over_a_border():
    """A balloon gives back what lies in two lanes: it reads as zeros."""
    with Bed() as bed:
        m = bed.migration(REGION.format("anon"))
        quarter = size_of(m.regions[0]) // 4
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--split", "4", "--pause-after", "16")
        guest.wait_event("paused")
        guest.say(f"discard {quarter // 4096 - 300} 600")
        guest.wait_event("discarded")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        check(guest.value("off") == 0, "pages are off")
        shown = m.show()
        check(500 <= shown["pages_removed"] <= 600, f"{shown['pages_removed']} removed")


def test_no_further_mapping():
    """It would have one userfaultfd for several lanes: refused, and the guest goes on."""
    with Bed() as bed:
        m = bed.migration(REGION.format("memfd-minor"), poison=8)
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--split", "4", "--pause-after", "4")
        guest.wait_event("paused")
        other = m.destination("--mapping-of", guest.popen.pid, name="back-end")
        check(other.popen.wait(PATIENCE) == REFUSED, "it was not refused")
        check("divide them in the same way" in other.log_text(), other.log_text())
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.check_ledger(guest)


def test_link_cut_often():
    """Four lanes lose their links again and again."""
    with Bed(FAST) as bed:
        proxy = Proxy(bed)
        m = bed.migration("ram0:memfd:96M", "ram1:anon:32M", poison=64, late=8)
        source = m.source("--read-poison")
        m.start("--bandwidth", "60M", source=proxy.address)
        guest = m.destination("--split", "4")
        guest.wait_event("touching")
        source.say("late")
        cuts = 0
        for target in range(10, 80, 10):
            shown = wait_until("progress", lambda t=target: (
                lambda s: s if s["state"] == "completed" or
                s["memory_processed"] * 100 >= t * s["memory_total"] else None)(m.show()))
            if shown["state"] == "completed":
                break
            cuts += proxy.cut() > 0
        bed.ctl("set-limits", m.id, "--bandwidth", "0", status=None)
        guest.finish()
        source.finish()
        m.check_ledger(guest)
        check(cuts > 0 and guest.value("off") == 0, f"{cuts} cuts, {guest.value('off')} off")


main(test_anonymous, test_memfd, test_memfd_minor, test_hugetlb, test_hugetlb_minor,
     test_several_regions, test_stripes, test_one_lane, test_lost_over_the_borders,
     test_given_back_over_a_border, test_no_further_mapping, test_link_cut_often)
