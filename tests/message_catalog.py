#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that lib/core/message_ids.h, systemd/postcopy.catalog and docs/journal.md agree:
the same ids, none twice, every text complete, and naming only fields that its event has.
Usage: message_catalog.py ROOT          exit 0: they agree, 1: each fault on a line
       message_catalog.py --self-test   shows that faults are found
       message_catalog.py --journalctl ROOT
                                        systemd's own compiler takes the catalog
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HEADER, CATALOG, DOCUMENT = "lib/core/message_ids.h", "systemd/postcopy.catalog", "docs/journal.md"
ALWAYS = {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE_ID"}


def header_events(text):
    """(name, id, fields) of each define with the comment before it."""
    pattern = r"/\*((?:(?!\*/).)*)\*/\n#define MESSAGE_(\w+) \"([^\"]*)\""
    for comment, name, mid in re.findall(pattern, text, re.S):
        words = re.sub(r"\s*\n \* ?", " ", comment)
        fields = re.search(r" Fields: ([A-Z_, ]+)\.", words)
        yield name, mid, set(fields[1].split(", ")) if fields else (
            set() if " No fields." in words else None)


def header_faults(text):
    events = list(header_events(text))
    seen = {}
    if len(events) != text.count("#define MESSAGE_"):
        yield f"{HEADER}: {text.count('#define MESSAGE_')} ids, but {len(events)} with a comment"
    for name, mid, fields in events:
        if not re.fullmatch(r"[0-9a-f]{32}", mid):
            yield f"{HEADER}: {name}: \"{mid}\" is not 32 hex digits"
        if mid in seen:
            yield f"{HEADER}: {name} has the id of {seen[mid]}"
        seen[mid] = name
        if fields is None:
            yield f"{HEADER}: {name}: the comment tells no fields"


def entries(text):
    """(id, headers, body) of each catalog entry."""
    for part in re.split(r"^-- ", text, flags=re.M)[1:]:
        head, _, body = part.partition("\n\n")
        mid, *lines = head.split("\n")
        yield mid, dict(line.partition(": ")[::2] for line in lines), body.strip()


def catalog_faults(text, events):
    fields = {mid: (name, fields or set()) for name, mid, fields in events}
    seen = set()
    for mid, headers, body in entries(text):
        if mid in seen:
            yield f"{CATALOG}: {mid} is there twice"
        seen.add(mid)
        if mid not in fields:
            yield f"{CATALOG}: {mid} is not in {HEADER}"
            continue
        name, known = fields[mid]
        for header in ("Subject", "Defined-By", "Support"):
            if not headers.get(header, "").strip():
                yield f"{CATALOG}: {name} has no {header}"
        if not body:
            yield f"{CATALOG}: {name} has no text"
        for field in re.findall(r"@([^@\s]*)@", headers.get("Subject", "") + "\n" + body):
            if field not in known | ALWAYS:
                yield f"{CATALOG}: {name} speaks of @{field}@, which is not among its fields"
    for mid in fields.keys() - seen:
        yield f"{CATALOG}: {fields[mid][0]} ({mid}) is missing"


def document_faults(text, events):
    rows = [[c.strip() for c in line.strip("|").split("|")]
            for line in text.splitlines() if re.match(r"\| \w+ \| `[0-9a-f]{32}` \|", line)]
    names = [row[0] for row in rows]
    for name in {n for n in names if names.count(n) > 1}:
        yield f"{DOCUMENT}: {name} is there twice"
    told = {row[0]: (row[1].strip("`"), set(row[-1].split(", ")) - {"none"}) for row in rows}
    known = {name: (mid, fields) for name, mid, fields in events}
    for name in known.keys() - told.keys():
        yield f"{DOCUMENT}: {name} is missing"
    for name in told.keys() - known.keys():
        yield f"{DOCUMENT}: {name} is not in {HEADER}"
    for name in told.keys() & known.keys():
        if told[name] != known[name]:
            yield f"{DOCUMENT}: {name} has another id or other fields than in {HEADER}"


def faults(header, catalog, document):
    events = list(header_events(header))
    yield from header_faults(header)
    yield from catalog_faults(catalog, events)
    yield from document_faults(document, events)


def read(root):
    return [(pathlib.Path(root) / name).read_text(encoding="utf-8")
            for name in (HEADER, CATALOG, DOCUMENT)]


def check(root):
    texts = read(root)
    found = list(faults(*texts))
    for fault in found:
        print(fault)
    n = len(list(header_events(texts[0])))
    if n == 0:
        print(f"{HEADER}: no ids")
    elif not found:
        print(f"message catalog: {n} ids, all in agreement")
    return 1 if found or n == 0 else 0


ID_A, ID_B = "0" * 31 + "a", "0" * 31 + "b"
GOOD = [f"/*\n * One. Fields: LANE,\n * PEER.\n */\n#define MESSAGE_ONE \"{ID_A}\"\n"
        f"/* Two. No fields. */\n#define MESSAGE_TWO \"{ID_B}\"\n",
        f"-- {ID_A}\nSubject: x @PEER@\nDefined-By: x\nSupport: x\n\nLane @LANE@.\n\n"
        f"-- {ID_B}\nSubject: x\nDefined-By: x\nSupport: x\n\nText.\n",
        f"| ONE | `{ID_A}` | info | x | LANE, PEER |\n| TWO | `{ID_B}` | info | x | none |\n"]
# Which text, what in it becomes what, and what must be said about it.
BAD = [(0, ID_B, ID_A, "has the id of"), (0, ID_B, "12", "not 32 hex"), (0, " No fields.", "", "tells no"),
       (0, "/* Two. No fields. */\n", "", "with a comment"), (1, ID_B, ID_A, "twice"),
       (1, ID_B, "f" * 32, "is not in"), (1, f"-- {ID_B}", f"{ID_B}", "is missing"),
       (1, "@LANE@", "@NAME@", "@NAME@"), (1, "Subject: x\n", "", "no Subject"),
       (1, "Text.", "", "no text"), (2, "TWO", "ONE", "twice"), (2, "TWO", "SIX", "is missing"),
       (2, "LANE, PEER", "LANE", "other fields"), (2, ID_B, ID_A, "another id")]


def self_test():
    failed = list(faults(*GOOD))
    for i, old, new, expected in BAD:
        texts = list(GOOD)
        texts[i] = texts[i].replace(old, new)
        found = list(faults(*texts))
        if not any(expected in fault for fault in found):
            failed.append(f"{old!r} -> {new!r}: expected {expected!r}, got {found}")
    print("\n".join(failed) or f"self-test: {len(BAD)} faults, all found")
    return 1 if failed else 0


def journalctl(root, *args):
    return subprocess.run(["journalctl", "--root", str(root), *args], capture_output=True,
                          text=True, timeout=60, check=False)


def compile_catalog(root, text):
    """Into a root of our own; what it complains about."""
    directory = pathlib.Path(root, "usr/lib/systemd/catalog")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "postcopy.catalog").write_text(text, encoding="utf-8")
    made = journalctl(root, "--update-catalog")
    return made.stderr.strip() + (f" (exit status {made.returncode})" if made.returncode else "")


def check_journalctl(source):
    if not shutil.which("journalctl"):
        print("SKIP: journalctl is not installed")
        return 77
    header, catalog, _ = read(source)
    with tempfile.TemporaryDirectory() as root:
        complaint = compile_catalog(root, catalog)
        listed = journalctl(root, "--list-catalog").stdout
        missing = [name for name, mid, _ in header_events(header)
                   if not re.search(rf"^{mid} postcopy", listed, re.M)]
        dumped = journalctl(root, "--dump-catalog").stdout
        lost = [mid for mid, headers, body in entries(catalog)
                if body not in dumped or headers["Subject"] not in dumped]
        broken = compile_catalog(root, catalog.replace("-- ", "-- x", 1))
    print(complaint or "journalctl --update-catalog has nothing to say")
    if missing or lost:
        print(f"not in the database: {missing} {lost}")
    if not broken:
        print("journalctl does not notice a broken catalog: this test would not, either")
    return 1 if complaint or missing or lost or not broken else 0


def main(args):
    if args == ["--self-test"]:
        return self_test()
    if args[:1] == ["--journalctl"]:
        return check_journalctl(args[1])
    return check(args[0] if args else pathlib.Path(__file__).resolve().parents[1])


sys.exit(main(sys.argv[1:]))
