# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own promises: medians over rounds, honest verdicts, the exit status."""
import contextlib
import io
import json
import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
import rounds  # noqa: E402 pylint: disable=wrong-import-position
from e2e import Skip, check  # noqa: E402 pylint: disable=wrong-import-position


class Context:
    quick, memory, busy_cpus = True, "anon", 0.0
    spinners = contextlib.nullcontext


def make(name, values, sense="<=", goal=1.0):
    """A case whose rounds give these values; an exception is raised instead."""
    left = list(values)

    def measure(_):
        value = left.pop(0)
        if isinstance(value, Exception):
            raise value
        return {name: value, "beside": 2 * value}
    return rounds.Case(name, [rounds.Figure(name, name, sense, goal)], measure)


def run(*cases, goals=()):
    """Exit status, table and JSON of three rounds."""
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(out), \
            contextlib.redirect_stderr(io.StringIO()):
        path = pathlib.Path(directory) / "out.json"
        rounds.set_goals(cases, goals)
        rounds.run_rounds(cases, 3, Context())
        status = rounds.finish(cases, Context(), path)
        return status, out.getvalue(), json.loads(path.read_text())


def verdict(found, name):
    return next(f["verdict"] for f in found["figures"] if f["name"] == name)


def test_median_decides():
    status, table, found = run(make("a", [0.5, 9, 0.9]), make("b", [2, 0.1, 3], ">="))
    check(status == 0 and verdict(found, "a") == verdict(found, "b") == "met", table)
    check("0.9 (0.5-9)" in table, table)
    check(found["values"]["a"]["beside"]["median"] == 1.8, str(found["values"]))


def test_missed_is_said():
    status, table, found = run(make("a", [0.5, 1.01, 2]))
    check(status == 1 and verdict(found, "a") == "missed", table)


def test_goal_can_be_made_impossible():
    status, table, found = run(make("a", [0.5, 0.5, 0.5]), goals=["a=0.1"])
    check(status == 1 and verdict(found, "a") == "missed", table)


def test_no_goal_is_only_reported():
    status, table, found = run(make("a", [5, 5, 5], "", None))
    check(status == 0 and verdict(found, "a") == "reported", table)


def test_failure_is_no_success():
    """Although the rounds before were good; and the other cases go on."""
    status, table, found = run(make("a", [0.5, OSError("broken")]), make("b", [1, 1, 1]))
    check(status == 1 and verdict(found, "a") == "failed" and "broken" in table, table)
    check(len(found["figures"][1]["rounds"]) == 3, str(found["figures"][1]))


def test_skip_is_neither():
    status, table, found = run(make("a", [Skip("no such kernel")]))
    check(status == 0 and verdict(found, "a") == "skipped" and "no such kernel" in table, table)


def test_rounds_are_interleaved():
    order = []
    cases = [rounds.Case(n, [rounds.Figure(n, n)], lambda _, n=n: order.append(n) or {n: 1})
             for n in "ab"]
    run(*cases)
    check(order == list("ababab"), str(order))


if __name__ == "__main__":
    for test in [v for k, v in list(globals().items()) if k.startswith("test_")]:
        test()
        print(f"ok {test.__name__}")
