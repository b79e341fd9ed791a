# SPDX-License-Identifier: Apache-2.0
"""Promises: what goes wrong before the destination's QEMU runs the guest is undone, and the
guest runs on at the source with all it had; what goes wrong later costs it nothing either.
"""
import json
import signal
import socket
import subprocess
import threading
import uuid

from qemu_bed import MIB, QemuBed, downtime_ms, main_memory
from e2e import PATIENCE, check, main, wait_until

SIZE = 128
PAGES = 16384  # that the guest checks, see qemu_migrate_test.py
SLOW = ("--bandwidth", "8M")


def machine_options():
    machine, options = main_memory("memfd", SIZE)
    return "pc" + machine, options


def begun_pair(bed, source_options=()):
    machine, options = machine_options()
    source, destination = bed.pair(machine, [*options, *source_options], options)
    source.begin(SIZE)
    source.check_on(1000)
    return source, destination


def check_undone(source, text, said, destination=None):
    """The source has its guest, and can try again."""
    check(said in text, f"no {said!r} in {text!r}")
    check("the guest runs on at the source" in text, f"nothing is said of the guest in {text!r}")
    check(source.status() == "running", f"the source's QEMU is {source.status()}")
    source.check_on(2 * PAGES)
    out = source.memory('{"command": "status"}')["out"]
    check(not out or out["state"] == "withdrawn", f"the export is {out}")
    if destination:
        ran = [e for e in destination.monitor.events if e["event"] == "RESUME"]
        check(not ran, f"the destination ran: {ran}")


def migrate_again(bed, source, *more):
    """What failed has left nothing behind that a second attempt would stumble over."""
    machine, options = machine_options()
    destination = bed.machine("again", machine, [*options, *more], True)
    bed.migrate(source, destination, "--wait")
    destination.check_on(2 * PAGES)


def test_wrong_names():
    """Nobody stops a guest for hosts that do not trust each other."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        text = bed.migrate(source, destination, "--destination-peer", "nobody", status=1)
        check_undone(source, text, "reaching the source from the destination: ", destination)
        text = bed.migrate(source, destination, "--peer", "nobody", status=1)
        check_undone(source, text, "reaching the source from the destination: ", destination)
        stopped = [e for e in source.monitor.events if e["event"] == "STOP"]
        check(not stopped, "the guest was stopped for it")
        # The destination's QEMU has begun nothing yet, and can be used.
        output = bed.migrate(source, destination, "--wait")
        check(downtime_ms(output) > 0, output)
        destination.check_on(2 * PAGES)


def test_unreachable():
    """Neither for a source that is not there, nor for a socket that nobody listens on."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        text = bed.migrate(source, destination, "--source", "127.0.0.1:1", "--timeout", "1s",
                           status=1)
        check_undone(source, text, "does not reach it in time", destination)
        text = bed.migrate(source, destination, "--export-socket", "/nowhere", status=1)
        check_undone(source, text, "/nowhere", destination)
        text = bed.migrate(source, destination, "--attach-socket", "/nowhere", status=1)
        check_undone(source, text, "/nowhere", destination)
        text = bed.migrate(source, destination, "--uri", "unix:/nowhere/socket", status=1)
        check_undone(source, text, "letting the destination's QEMU listen", destination)
        bed.migrate(source, destination, "--wait")
        destination.check_on(2 * PAGES)


def test_another_guest():
    """The destination's QEMU cannot load the device state: that shows when all is frozen."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed, ("-device", "virtio-rng-pci"))
        text = bed.migrate(source, destination, status=1)
        check_undone(source, text, "moving the device state")
        status, _ = destination.ended()
        check(status is not None, "the destination's QEMU goes on")
        migrate_again(bed, source, "-device", "virtio-rng-pci")


def test_memory_differs():
    """Half the memory at the destination is a mistake, not a guest."""
    with QemuBed() as bed:
        machine, options = machine_options()
        source = bed.machine("source", machine, options)
        source.begin(SIZE)
        machine, options = main_memory("memfd", SIZE // 2)
        destination = bed.machine("destination", "pc" + machine, options, True)
        text = bed.migrate(source, destination, status=1)
        check_undone(source, text, "reaching the source from the destination", destination)


def slow_state(source):
    """QEMU's own stream takes seconds, so that something can happen meanwhile."""
    source.monitor.do("migrate-set-parameters", **{"max-bandwidth": 65536})


def under_way(bed, source, destination, *options):
    """qemu-migrate, while QEMU's own stream goes."""
    slow_state(source)
    # pylint: disable=consider-using-with # every caller waits for it
    command = subprocess.Popen(bed.migrate_argv(source, destination, *options), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    source.monitor.wait_status("active")
    return command


def test_interrupted():
    """Ctrl-C is a failure of the step that was under way."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        command = under_way(bed, source, destination)
        command.send_signal(signal.SIGINT)
        _, text = command.communicate(timeout=PATIENCE)
        check(command.returncode == 1, f"exit status {command.returncode}: {text}")
        check_undone(source, text, "stopping the guest at the source: interrupted")
        migrate_again(bed, source)


def test_command_killed():
    """What docs/operations.md tells to do when qemu-migrate itself was killed."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        command = under_way(bed, source, destination)
        command.kill()
        command.communicate()
        source.monitor.do("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
        source.monitor.wait_status("pre-switchover")
        destination.monitor.do("quit")
        source.monitor.do("migrate_cancel")
        source.monitor.wait_status("cancelled")
        check(source.memory('{"command": "withdraw", "force": true}')["ok"], "not withdrawn")
        wait_until("the source runs", lambda: source.status() == "running")
        source.check_on(2 * PAGES)
        migrate_again(bed, source)


class CutMonitor:
    """A relay before a monitor, which goes away when somebody says this word."""

    def __init__(self, directory, path, word):
        self.path = directory / "cut.qmp"
        self.word = word
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.far = socket.socket(socket.AF_UNIX)
        self.far.connect(str(path))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        near, _ = self.listener.accept()
        threading.Thread(target=self._back, args=(near,), daemon=True).start()
        while (data := near.recv(65536)) and self.word not in data:
            self.far.sendall(data)
        for s in (near, self.far):
            s.shutdown(socket.SHUT_RDWR)

    def _back(self, near):
        try:
            while data := self.far.recv(65536):
                near.sendall(data)
        except OSError:
            pass


def test_no_answer():
    """The destination was told to run the guest, and nobody knows whether it does: the source
    stands still, whatever it costs. Two guests would cost more."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        cut = CutMonitor(bed.dir, destination.paths["tool"], b'"cont"')
        text = bed.migrate(source, destination, "--destination-qmp", cut.path, status=1)
        check("leave it so" in text and "query-status" in text, f"what to do? {text!r}")
        check("runs on at the source" not in text, f"it does not: {text!r}")
        check(source.status() == "postmigrate", f"the source's QEMU is {source.status()}")
        # It had not heard of it: its operator finds out, and runs the guest there.
        check(destination.status() == "paused", f"the destination is {destination.status()}")
        destination.monitor.do("cont")
        destination.check_on(2 * PAGES)


def test_agent_dies():
    """Without an agent there is nothing to freeze; the guest has not been let go."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        command = under_way(bed, source, destination)
        bed.agent.kill()
        source.monitor.do("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
        _, text = command.communicate(timeout=PATIENCE)
        check(command.returncode == 1, f"exit status {command.returncode}: {text}")
        check_undone(source, text, "freezing the source's memory: ")
        bed.agent = bed.start_agent()
        migrate_again(bed, source)


def test_destination_dies():
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        command = under_way(bed, source, destination)
        destination.popen.kill()
        _, text = command.communicate(timeout=PATIENCE)
        check(command.returncode == 1, f"exit status {command.returncode}: {text}")
        check_undone(source, text, "stopping the guest at the source: ")
        migrate_again(bed, source)


def test_stopped_guest():
    """A guest that stands still moves, and stands still."""
    with QemuBed() as bed:
        source, destination = begun_pair(bed)
        source.monitor.do("stop")
        output = bed.migrate(source, destination, "--wait")
        check("stopped as it was" in output, output)
        check(destination.status() == "paused", f"it is {destination.status()}")
        destination.monitor.do("cont")
        destination.check_on(2 * PAGES)


def test_daemon_killed():
    """kill -9 of postcopyd, twice, while memory comes: the guest waits a moment."""
    with QemuBed(supervised=("postcopyd",)) as bed:
        source, destination = begun_pair(bed)
        output = bed.migrate(source, destination, *SLOW)
        for _ in range(2):
            checked = destination.report()
            bed.restart_service()
            wait_until("more pages", lambda c=checked: destination.report() > c + 100)
        answer = destination.memory('{"command": "wait"}', timeout=3 * PATIENCE)
        check(answer["ok"] and answer["in"]["state"] == "completed", f"{answer}")
        destination.check_on(2 * PAGES)
        check(json.loads(bed.ctl("show", output.split()[1], "--json"))["reconnects"] > 0,
              "the daemon did not start again in the middle")


def test_moves_on():
    """Three hosts: what was lost on the first hop stays lost on the second, and the second is
    refused until the first is complete."""
    with QemuBed() as bed:
        source, middle = begun_pair(bed)
        machine, options = machine_options()
        last = bed.machine("last", machine, options, True)
        first, second = str(uuid.uuid4()), str(uuid.uuid4())
        lost = 120 * MIB  # where the guest checks nothing: under TCG a touch would end QEMU
        command = under_way(bed, source, middle, first, *SLOW)
        bed.ctl("poison", first, f"{lost:#x}+8192", on_source=True)
        source.monitor.do("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
        _, text = command.communicate(timeout=PATIENCE)
        check(command.returncode == 0, f"exit status {command.returncode}: {text}")
        text = bed.migrate(middle, last, status=1)
        check_undone(middle, text, "still coming here")
        check(middle.memory('{"command": "wait"}')["ok"], "it does not complete")
        output = bed.migrate(middle, last, second, "--wait")
        check(second in output, output)
        last.check_on(2 * PAGES)
        shown = json.loads(bed.ctl("show", second, "--json"))
        check(sorted((p["guest_physical_address"], p["lost"]) for p in shown["poisoned"]) ==
              [(lost, 4096), (lost + 4096, 4096)], f"lost: {shown['poisoned']}")


main(test_wrong_names, test_unreachable, test_another_guest, test_memory_differs,
     test_interrupted, test_command_killed, test_no_answer, test_agent_dies,
     test_destination_dies, test_stopped_guest, test_daemon_killed, test_moves_on)
