# SPDX-License-Identifier: Apache-2.0
"""Rounds, medians, goals and verdicts: what tests/bench/run does with the cases.

A case is a function that measures once and returns a flat dictionary. Those of
its keys that are Figures get a verdict; the others are shown beside them. All
cases run once in every round, so that whatever the machine does meets all of
them, and a ratio is taken between things measured in the same round.
"""
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
import traceback

from e2e import Skip

# CPUs' worth of other programs just before the first round.
BUSY_CPUS = 0.2


@dataclasses.dataclass
class Figure:
    """What has a verdict: <= or >= a goal; without a goal it is only reported."""
    name: str
    what: str
    sense: str = ""
    goal: float | None = None
    unit: str = ""

    def met(self, value):
        return value <= self.goal if self.sense == "<=" else value >= self.goal

    def goal_text(self):
        return "-" if self.goal is None else f"{self.sense} {self.goal:g} {self.unit}".rstrip()


@dataclasses.dataclass
class Case:
    name: str
    figures: list
    measure: object
    peer: str = ""
    spin: bool = True  # no CPU halts meanwhile
    gib: int = 4  # memory of its guests at a time; half of it with --quick
    rounds: list = dataclasses.field(default_factory=list)
    skipped: str = ""
    failed: str = ""


CASES = []


def case(name, *figures, peer="", spin=True, gib=4):
    """Register the function below as a case."""
    def register(function):
        CASES.append(Case(name, list(figures), function, peer, spin, gib))
        return function
    return register


def choose(only, peer):
    """The cases that were asked for by their names or their figures' names."""
    cases = [c for c in CASES if c.peer in ("", peer)]
    unknown = set(only) - {c.name for c in cases} - {f.name for c in cases for f in c.figures}
    if unknown:
        raise ValueError(f"no case or figure is named {', '.join(sorted(unknown))}; see --list")
    return [c for c in cases
            if not only or c.name in only or any(f.name in only for f in c.figures)]


def set_goals(cases, settings):
    figures = {f.name: f for c in cases for f in c.figures}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            figures[name].goal = float(value)
        except (KeyError, ValueError):
            raise ValueError(f"--goal {setting}: expected FIGURE=NUMBER of a chosen case; "
                             "see --list") from None
        figures[name].sense = figures[name].sense or "<="


def run_rounds(cases, n_rounds, context):
    """A case that fails or is skipped in one round is left out of the others."""
    for r in range(n_rounds):
        for c in cases:
            if c.skipped or c.failed:
                continue
            started = time.monotonic()
            try:
                with context.spinners() if c.spin else contextlib.nullcontext():
                    values = c.measure(context)
                c.rounds.append(values)
            except Skip as e:
                c.skipped = str(e)
            except Exception as e:  # pylint: disable=broad-except # the other cases go on
                c.failed = f"{type(e).__name__}: {str(e)[:300]}"
                traceback.print_exc()
            shown = c.skipped or c.failed or ", ".join(
                f"{f.name} {values[f.name]:.3f}" for f in c.figures)
            print(f"  round {r + 1} of {n_rounds}: {c.name} "
                  f"({time.monotonic() - started:.1f} s): {shown}", file=sys.stderr, flush=True)


def drop_goals(cases):
    for c in cases:
        for f in c.figures:
            f.goal = None


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values),
            "rounds": values}


def verdict_of(c, figure, value):
    if c.failed:
        return "failed"
    if c.skipped:
        return "skipped"
    if figure.goal is None:
        return "reported"
    return "met" if figure.met(value) else "missed"


def busy_cpus(seconds=2):
    """How many CPUs are in use, or were taken by the hypervisor, right now."""
    def idle_and_all():
        with open("/proc/stat", encoding="ascii") as f:
            ticks = [int(t) for t in f.readline().split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)

    idle, total = idle_and_all()
    time.sleep(seconds)
    idle_then, total_then = idle_and_all()
    return (1 - (idle_then - idle) / max(1, total_then - total)) * os.cpu_count()


def congestion_control():
    """What TCP here uses where nobody asks for another."""
    try:
        with open("/proc/sys/net/ipv4/tcp_congestion_control", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""


def results(cases, context):
    """All that is known, as it goes into the JSON file."""
    out = {"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "kernel": platform.release(),
           "cpus": os.cpu_count(), "busy cpus": context.busy_cpus, "memory": context.memory,
           "congestion control": congestion_control(), "quick": context.quick, "figures": [],
           "values": {}}
    for c in cases:
        keys = c.rounds[0].keys() if c.rounds else []
        found = {k: summary([r[k] for r in c.rounds]) for k in keys}
        names = {f.name for f in c.figures}
        for f in c.figures:
            entry = {"name": f.name, "case": c.name, "what": f.what, "sense": f.sense,
                     "goal": f.goal, "unit": f.unit, **found.get(f.name, {})}
            entry["verdict"] = verdict_of(c, f, entry.get("median"))
            entry["reason"] = c.failed or c.skipped
            out["figures"].append(entry)
        out["values"][c.name] = {k: v for k, v in found.items() if k not in names}
    return out


def number(value):
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def figure_text(entry):
    if "median" not in entry or entry["verdict"] in ("failed", "skipped"):
        return "-"
    return (f"{number(entry['median'])} {entry['unit']}".rstrip() +
            f" ({number(entry['min'])}-{number(entry['max'])})")


def print_table(found):
    """goal | figure | verdict, then the absolute values of each case."""
    rows = [("goal", "", "figure: median (min-max)", "verdict")]
    rows += [(f"{e['name']}: {e['what']}",
              f"{e['sense']} {e['goal']:g}" if e["goal"] is not None else "-",
              figure_text(e), e["verdict"]) for e in found["figures"]]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print(" | ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    for entry in found["figures"]:
        if entry["reason"]:
            print(f"{entry['name']} {entry['verdict']}: {entry['reason']}")
    print()
    for name, values in found["values"].items():
        if values:
            print(f"{name}: " + ", ".join(f"{k} {number(v['median'])}"
                                          for k, v in values.items()))


def finish(cases, context, json_path):
    """Print, write, and the exit status."""
    found = results(cases, context)
    print_table(found)
    if json_path:
        with open(json_path, "w", encoding="ascii") as f:
            json.dump(found, f, indent=1)
            f.write("\n")
    bad = [e["name"] for e in found["figures"] if e["verdict"] in ("missed", "failed")]
    counts = {v: sum(e["verdict"] == v for e in found["figures"])
              for v in ("met", "missed", "failed", "skipped", "reported")}
    print(", ".join(f"{n} {v}" for v, n in counts.items()))
    if context.busy_cpus > BUSY_CPUS:
        print("This machine was busy before the first round (other programs had "
              f"{context.busy_cpus:.1f} CPUs): do not trust these figures.")
    return 1 if bad else 0
