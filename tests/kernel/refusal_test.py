# SPDX-License-Identifier: Apache-2.0
"""A kernel without UFFDIO_POISON: a migration that needs it is refused with what to do, before
the guest runs; one that does not need it works. For Linux before 6.6 (run.sh starts one).
"""
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import BUILD, Bed, check, main  # noqa: E402 pylint: disable=wrong-import-position

REMEDY = ("UFFDIO_POISON", "Linux 6.6", "kernel-patches/")


def check_names_remedy(text):
    for word in REMEDY:
        check(word in text, f"{word} is not named: {text}")


def refused(region, *source_options):
    with Bed() as bed:
        m = bed.migration(region, poison=4)
        m.source(*source_options)
        m.start()
        guest = m.destination()
        guest.finish(4)
        shown = m.show()
        check(shown["state"] == "failed", f"state {shown['state']}")
        check_names_remedy(shown["state_text"])
        check_names_remedy(" ".join(guest.all("state")))
        check(not guest.all("touching"), "the guest ran")
        # What is refused does not come to a guest that waits; that must not be said.
        log = bed.daemon.log_text()
        check(shown["state_text"] in log, f"the log does not have the refusal:\n{log}")
        check("will wait" not in log, f"the log says that a guest will wait:\n{log}")
        print(f"   {shown['state_text']}")


def test_poison_is_refused():
    refused("ram0:memfd:8M")


def test_poison_is_refused_for_anonymous_memory():
    refused("ram0:anon:8M")


def test_without_poison():
    with Bed() as bed:
        bed.migration("ram0:memfd:8M", "ram1:anon:8M", "ram2:memfd-minor:8M").run()


def test_probe():
    r = subprocess.run([BUILD / "ctl/postcopyctl", "probe"], capture_output=True, text=True,
                       check=False)
    check(r.returncode != 0, f"exit status {r.returncode}")
    check_names_remedy(r.stdout + r.stderr)
    print(r.stdout)


main(test_poison_is_refused, test_poison_is_refused_for_anonymous_memory, test_without_poison,
     test_probe)
