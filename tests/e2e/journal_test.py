# SPDX-License-Identifier: Apache-2.0
"""The journal: each event with its kind and fields, and one audit record for each lost page."""
import pathlib
import re
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import (ROOT, SOURCE_NAME, Bed, Proxy, check, cut_region,  # noqa: E402 pylint: disable=wrong-import-position
                 main, wait_until)

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "200ms"}}
PAGE = 4096


def kinds():
    """Id to name and fields, as the header has them."""
    text = (ROOT / "lib/core/message_ids.h").read_text(encoding="ascii")
    pattern = r"/\*((?:(?!\*/).)*)\*/\n#define MESSAGE_(\w+) \"([0-9a-f]{32})\""
    found = {}
    for comment, name, mid in re.findall(pattern, text, re.S):
        fields = re.search(r" Fields: ([A-Z_, ]+)\.", re.sub(r"\s*\n \* ?", " ", comment))
        found[mid] = (name, set(fields[1].split(", ")) if fields else set())
    return found


def records(process):
    """(kind, fields) of each event in the log, in order. Every field must be a known one."""
    known = kinds()
    found = []
    for line in process.log_text().splitlines():
        _, mark, rest = line.partition(" MESSAGE_ID=")
        if not mark:
            continue
        mid, *parts = re.split(r" (?=[A-Z_]+=)", rest)
        check(mid in known, f"unknown id: {line}")
        name, fields = known[mid]
        values = dict(part.partition("=")[::2] for part in parts)
        check(values.keys() <= fields, f"{name} has {values.keys() - fields}: {line}")
        found.append((name, values))
    return found


def of_kind(process, kind):
    return [values for name, values in records(process) if name == kind]


def audit(bed, n):
    """All audit records of the daemon, once there are so many and it has ended."""
    def count():
        return bed.daemon.log_text().count(" MESSAGE_ID=15c51a7cbc2f4839a1cf1cf50692e6de ")
    wait_until(f"{n} audit records", lambda: count() >= n)
    check(bed.daemon.kill(signal.SIGTERM) == 0, "the daemon's exit status")
    return of_kind(bed.daemon, "PAGE_POISONED")


def check_audit(found, lost, migration):
    """One record for each lost page, in the ledger's order, complete."""
    check([int(r["LEDGER_ENTRY"]) for r in found] == list(range(len(found))), "not in order")
    pages = [(r["REGION"], int(r["PAGE_OFFSET"])) for r in found]
    check(len(set(pages)) == len(pages), "a page has two records")
    check(set(pages) == lost, f"{len(pages)} records, {len(lost)} lost pages")
    check(all(r["MIGRATION_ID"] == migration.id and r["LOST_BYTES"] == str(PAGE) and
              r["PEER"] == SOURCE_NAME and int(r["POISONED_USEC"]) > 0 for r in found),
          f"a record is not right, like {found[0]}")


def lost_pages(guest):
    return {(r, int(o)) for r, o in (v.split() for v in guest.all("lost-page"))}


def test_each_lost_page_has_one_record():
    with Bed() as bed:
        m = bed.migration("ram0:memfd:64M", "ram1:anon:64M", poison=500)
        shown, source, guest = m.run()
        lost = lost_pages(guest)
        check(len(lost) > 400, f"only {len(lost)} lost")
        found = audit(bed, len(lost))
        check_audit(found, lost, m)
        check({(r["REASON"], r["REPORTED_BY"]) for r in found} == {("reported", SOURCE_NAME)},
              "why, and who said so")
        places = {(p["region"], p["offset"]): p["guest_physical_address"] for p in shown["poisoned"]}
        check(all(int(r["GUEST_PHYSICAL_ADDRESS"], 0) == places[r["REGION"], int(r["PAGE_OFFSET"])]
                  for r in found), "a guest-physical address is not the ledger's")
        # The source has records of runs: together they are the same pages.
        bed.agent.kill(signal.SIGTERM)
        told = set()
        for r in of_kind(bed.agent, "PAGES_LOST"):
            first, length = int(r["PAGE_OFFSET"]), int(r["LOST_BYTES"])
            told |= {(r["REGION"], first + i) for i in range(0, length, PAGE)}
        check(told == lost and source.value("reported"), f"{len(told)} told by the source")


def test_who_said_so():
    with Bed() as bed:
        m = bed.migration("ram0:anon:32M", poison=8)
        source = m.source("--read-poison")
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "1", "--threads", "1", "--any-poison")
        guest.wait_event("paused")
        bed.ctl("poison", m.id, "0x100000+8192")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        lost = lost_pages(guest)
        found = audit(bed, len(lost))
        check_audit(found, lost, m)
        said = {(r["REASON"], r["REPORTED_BY"]) for r in found}
        check(said == {("reported", SOURCE_NAME), ("read error", SOURCE_NAME),
                       ("operator", "operator")}, f"{said}")
        requests = [(r["REQUEST"], r.get("REASON")) for r in of_kind(bed.daemon, "OPERATOR_REQUEST")]
        check(requests == [("StartMigration", None), ("Poison", None), ("SetLimits", None)], f"{requests}")


def test_very_many_do_not_hold_the_daemon_up():
    """All of 400 MiB is lost at once: answers come between the records, and none is lost."""
    with Bed() as bed:
        region = "ram0:memfd:400M"
        n = int(cut_region(region).split(":")[2][:-1]) * 256
        m = bed.migration(region)
        source = m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "1", "--threads", "1", "--any-poison")
        guest.wait_event("paused")
        bed.ctl("poison", m.id, f"0x0+{n * PAGE}")
        guest.say("go")
        size = 0
        while (now := bed.daemon.log.stat().st_size) > size + 1000:
            size = now
            bed.ctl("list")  # is in the log, too
        guest.finish()
        source.finish()
        m.check_ledger_counts(guest)
        lost = lost_pages(guest)
        check_audit(audit(bed, len(lost)), lost, m)
        names = re.findall(r"( LEDGER_ENTRY=| REQUEST=List )", bed.daemon.log_text())
        last = len(names) - names[::-1].index(" LEDGER_ENTRY=")
        between = names[names.index(" LEDGER_ENTRY="):last].count(" REQUEST=List ")
        print(f"   {len(lost)} records, {between} answers between them")
        # An emulated machine, with fewer records, cannot ask often enough to be sure of one.
        check(between >= 1 or n < 50000, "no answer while the records were written")


def test_the_end_comes_before_the_last_record():
    """The daemon is told to end while records are missing: it writes them first."""
    with Bed() as bed:
        region = cut_region("ram0:memfd:400M")
        m = bed.migration(region)
        m.source()
        m.start("--bandwidth", "4K")
        guest = m.destination("--pause-after", "1", "--threads", "1", "--any-poison")
        guest.wait_event("paused")
        bed.ctl("poison", m.id, f"0x0+{int(region.split(':')[2][:-1]) << 20}")
        wait_until("the end", lambda: "-> completed" in bed.daemon.log_text())
        bed.daemon.popen.send_signal(signal.SIGTERM)
        check(bed.daemon.kill(signal.SIGTERM) == 0, "the daemon's exit status")
        guest.kill()
        log = bed.daemon.log_text()
        rest = log.count(" LEDGER_ENTRY=", log.index("received SIGTERM"))
        found = of_kind(bed.daemon, "PAGE_POISONED")
        n = int(of_kind(bed.daemon, "MIGRATION_COMPLETED")[0]["LOST_BYTES"]) // PAGE
        # Few records, as in an emulated machine, can all be written before the signal comes.
        check(rest > 0 or n < 50000, "nothing was left to write: this test has shown nothing")
        print(f"   {rest} of {n} records after the signal")
        check([int(r["LEDGER_ENTRY"]) for r in found] == list(range(n)), f"{len(found)} of {n}")


def kinds_in_order(process, *expected):
    names = [name for name, _ in records(process)]
    left = iter(names)
    check(all(name in left for name in expected), f"expected {expected} in {names}")


def test_events_of_a_life():
    with Bed(FAST) as bed:
        proxy = Proxy(bed)
        m = bed.migration("ram0:memfd:32M", poison=4)
        source = m.source()
        m.start("--bandwidth", "4K", source=proxy.address)
        refused = m.destination("--eager", token=bed.token_file(), name="stranger")
        refused.finish(5)
        guest = m.destination("--pause-after", "10", "--threads", "1")
        guest.wait_event("paused")
        proxy.refusing = True
        proxy.cut()
        m.wait_state("postcopy-paused", "postcopy-recover")
        proxy.refusing = False
        m.wait_state("postcopy-active")
        bed.ctl("set-limits", m.id, "--bandwidth", "0")
        guest.say("go")
        guest.finish()
        source.finish()
        m.wait_state("completed")
        kinds_in_order(bed.daemon, "MIGRATION_STARTED", "ATTACH_REFUSED", "MIGRATION_ATTACHED",
                       "MIGRATION_SERVING", "MIGRATION_PAUSED", "MIGRATION_RECOVERING",
                       "MIGRATION_RECOVERED", "MIGRATION_COMPLETED")
        wait_until("released", lambda: of_kind(bed.agent, "EXPORT_RELEASED"))
        kinds_in_order(bed.agent, "EXPORT_EXPORTED", "EXPORT_FROZEN", "DESTINATION_CONNECTED",
                       "EXPORT_SERVING", "DESTINATION_DISCONNECTED", "DESTINATION_CONNECTED",
                       "EXPORT_RELEASED")
        ended = of_kind(bed.daemon, "MIGRATION_COMPLETED")[0]
        check(ended["MIGRATION_ID"] == m.id and ended["LOST_BYTES"] == str(4 * PAGE) and
              ended["REMAINING_BYTES"] == "0" and ended["PEER"] == SOURCE_NAME and
              ended["PEER_ADDRESS"] == proxy.address and ended["VMM_PID"] == str(guest.popen.pid),
              f"{ended}")
        why = of_kind(bed.daemon, "ATTACH_REFUSED")[0]
        check("token" in why["REASON"] and why["VMM_PID"] == str(refused.popen.pid) and
              why["MIGRATION_ID"] == m.id, f"{why}")
        check(of_kind(bed.daemon, "MIGRATION_PAUSED")[0]["REASON"], "nobody says why")


def test_who_is_refused():
    with Bed(FAST) as bed:
        strange = bed.migration("ram0:memfd:8M")
        strange.source(peer="somebody.else.example")
        strange.start()
        refused = strange.destination()
        refused.finish(4)
        why = wait_until("the refusal", lambda: of_kind(bed.agent, "DESTINATION_REFUSED"))[-1]
        check(why["MIGRATION_ID"] == strange.id and "somebody.else.example" in why["REASON"],
              f"{why}")
        why = of_kind(bed.daemon, "SOURCE_REFUSED")[-1]
        check(why["MIGRATION_ID"] == strange.id and why["PEER"] == SOURCE_NAME, f"{why}")
        check(of_kind(bed.daemon, "MIGRATION_FAILED"), "it did not fail")


def test_the_vmm_dies_and_the_daemon_ends():
    with Bed() as bed:
        migrations = [bed.migration("ram0:memfd:8M") for _ in range(2)]
        guests = []
        for m in migrations:
            m.source()
            m.start("--bandwidth", "4K")
            guests.append(m.destination("--pause-after", "1", "--threads", "1"))
            guests[-1].wait_event("paused")
        guests[0].kill()
        migrations[0].wait_state("failed")
        gone = of_kind(bed.daemon, "VMM_GONE")
        check(len(gone) == 1 and gone[0]["VMM_PID"] == str(guests[0].popen.pid), f"{gone}")
        bed.daemon.stop()
        left = of_kind(bed.daemon, "MIGRATION_LEFT")
        check([r["MIGRATION_ID"] for r in left] == [migrations[1].id] and
              int(left[0]["REMAINING_BYTES"]) > 0, f"{left}")
        bed.agent.stop()
        check(int(of_kind(bed.agent, "EXPORTS_LEFT")[0]["LIVE_EXPORTS"]) >= 1, "exports are left")


main(test_each_lost_page_has_one_record, test_who_said_so,
     test_very_many_do_not_hold_the_daemon_up, test_the_end_comes_before_the_last_record,
     test_events_of_a_life, test_who_is_refused, test_the_vmm_dies_and_the_daemon_ends)
