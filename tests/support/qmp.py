# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP): commands, events, and the ends of its migrations."""
import json
import socket

from e2e import PATIENCE, check, wait_until


def connect(path, popen, name, timeout=PATIENCE):
    """To a socket that a QEMU which has just been started makes."""
    def attempt():
        check(popen.poll() is None, f"{name}: QEMU ended with {popen.poll()}")
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(str(path))
        except OSError:
            s.close()
            return None
        s.settimeout(timeout)
        return s
    return wait_until(f"{name}: QEMU", attempt, timeout)


class QmpError(AssertionError):
    """QEMU answered with an error."""


class Monitor:
    """One connection; what QEMU tells by itself is kept in `events`."""

    def __init__(self, path, popen, name):
        self.name = name
        self.events = []
        self.stream = connect(path, popen, name).makefile("rw", encoding="utf-8")
        json.loads(self.stream.readline())
        self.do("qmp_capabilities")

    def _receive(self):
        line = self.stream.readline()
        check(line, f"{self.name}: QEMU has gone")
        return json.loads(line)

    def do(self, command, **arguments):
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            reply = self._receive()
            if "event" in reply:
                self.events.append(reply)
                continue
            if "return" not in reply:
                raise QmpError(f"{self.name}: {command}: {reply.get('error')}")
            return reply["return"]

    def set_capabilities(self, *names):
        self.do("migrate-set-capabilities",
                capabilities=[{"capability": name, "state": True} for name in names])

    def wait_event(self, wanted, first=0):
        """The first event, of those from number `first` on, for which wanted() is true: when QEMU
        says that it was, on the clock of time.time()."""
        while True:
            for event in self.events[first:]:
                if wanted(event):
                    stamp = event["timestamp"]
                    return stamp["seconds"] + stamp["microseconds"] / 1e6
            first = len(self.events)
            self.events.append(self._receive())

    def wait_status(self, *statuses, first=0):
        """For a MIGRATION event of one of these, from event number `first` on; its time. The
        capability "events" is needed."""
        def wanted(event):
            status = event.get("data", {}).get("status")
            if status == "failed" and status not in statuses:
                raise AssertionError(f"{self.name}: QEMU's migration failed: "
                                     f"{self.do('query-migrate').get('error-desc')}")
            return event["event"] == "MIGRATION" and status in statuses
        return self.wait_event(wanted, first)

    def version(self):
        found = self.do("query-version")["qemu"]
        return found["major"] + found["minor"] / 10

    def close(self):
        self.stream.close()
