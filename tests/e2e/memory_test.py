# SPDX-License-Identifier: Apache-2.0
"""Every kind of memory and way to hand it over: no wrong byte, SIGBUS at exactly the lost pages."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from e2e import Bed, main  # noqa: E402 pylint: disable=wrong-import-position


def migrate(*regions, destination=(), source=(), poison=24):
    with Bed() as bed:
        shown, _, guest = bed.migration(*regions, poison=poison).run(source, destination)
        print(f"   {guest.value('lost')} lost, {shown['faults']} faults, "
              f"{shown['pages_urgent']} urgent, {shown['pages_stream']} by the stream")


def test_memfd_missing():
    migrate("ram0:memfd:96M")


def test_memfd_minor():
    migrate("ram0:memfd-minor:96M")


def test_anonymous():
    migrate("ram0:anon:96M")


def test_mixed_three_lanes():
    migrate("ram0:memfd:48M", "ram1:anon:32M", "ram2:memfd-minor:32M",
            destination=["--uffds", "3"])


def test_mixed_one_lane():
    migrate("ram0:memfd:32M", "ram1:anon:48M", "ram2:memfd-minor:32M")


def test_registered_missing():
    migrate("ram0:memfd:32M", "ram1:anon:32M", destination=["--registered"])


def test_registered_minor():
    migrate("ram0:memfd-minor:32M", destination=["--registered"])


def test_registered_three_lanes():
    migrate("ram0:memfd:32M", "ram1:anon:32M", "ram2:memfd-minor:32M",
            destination=["--registered", "--uffds", "3"])


def test_each_page_by_one_thread():
    migrate("ram0:memfd:64M", "ram1:anon:64M", destination=["--partition", "--threads", "16"])


def test_no_poison_at_all():
    migrate("ram0:memfd:32M", "ram1:anon:32M", poison=0)


def test_tiny_regions():
    migrate("bios:anon:4K", "rom:memfd:12K", "ram0:anon:1M", poison=2)


main(test_memfd_missing, test_memfd_minor, test_anonymous, test_mixed_three_lanes,
     test_mixed_one_lane, test_registered_missing, test_registered_minor,
     test_registered_three_lanes, test_each_page_by_one_thread, test_no_poison_at_all,
     test_tiny_regions)
