# SPDX-License-Identifier: Apache-2.0
"""The bed of the tests in a machine with systemd: the installed services instead of
programs that a test starts. Everything else is tests/support/e2e.py's.

For root, in a machine of its own (tests/systemd/machine.sh): it configures the
services of the machine it runs in.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import e2e  # noqa: E402 pylint: disable=wrong-import-position
from e2e import Bed, check, free_port, wait_until  # noqa: E402 pylint: disable=wrong-import-position

ETC = pathlib.Path("/etc/postcopyd")
DAEMON, AGENT = "postcopyd.service", "postcopy-sourced.service"
SOCKETS = {"control.sock": "/run/postcopyd/control.sock",
           "attach.sock": "/run/postcopyd/attach.sock",
           "status.sock": "/run/postcopyd/status.sock",
           "source.sock": "/run/postcopy-sourced/control.sock",
           "export.sock": "/run/postcopy-sourced/export.sock"}


def systemctl(*args, fails=False):
    r = subprocess.run(["systemctl", *args], capture_output=True, text=True, timeout=e2e.PATIENCE,
                       check=False)
    check(fails or r.returncode == 0, f"systemctl {' '.join(args)}: {r.stderr}")
    return r.stdout.strip()


def journal(unit, *options):
    return subprocess.run(["journalctl", "--unit", unit, "--output", "cat", "--no-pager", *options],
                          capture_output=True, text=True, timeout=e2e.PATIENCE, check=True).stdout


class Service:
    """What a bed needs of a daemon, when systemd is who runs it."""

    def __init__(self, unit):
        self.unit = unit
        self.name = unit.removesuffix(".service")

    def show(self, what):
        return systemctl("show", "--property", what, "--value", self.unit)

    @property
    def pid(self):
        return int(self.show("MainPID"))

    def wait_active(self, other_than=0):
        """Ready again, in another process."""
        wait_until(f"{self.unit} is active", lambda: self.pid not in (0, other_than) and
                   self.show("ActiveState") == "active")
        return self.pid

    def signal(self, number):
        """To the main process; its pid."""
        pid = self.pid
        os.kill(pid, number)
        return pid

    def log_text(self):
        return journal(self.unit)


class SystemBed(Bed):
    """Both services of this machine, with settings and keys of this bed."""

    def __init__(self, daemon_settings=None, source_settings=None):  # pylint: disable=super-init-not-called
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="postcopy-systemd-"))
        self.processes, self.migrations, self.proxies = [], [], []
        self.pki = self.dir / "pki"
        shutil.copytree(self._usual_pki(), self.pki)
        self.source_address = f"127.0.0.1:{free_port()}"
        self.daemon, self.agent = Service(DAEMON), Service(AGENT)
        self.install_keys()
        self._install("postcopyd", {"log": {"level": "debug"}}, daemon_settings)
        self._install("postcopy-sourced", {"listen": {"address": self.source_address},
                                           "log": {"level": "debug"}}, source_settings)
        for name, path in SOCKETS.items():
            (self.dir / name).symlink_to(path)
        self.since = subprocess.run(["journalctl", "--show-cursor", "--lines", "0"], check=True,
                                    capture_output=True, text=True).stdout.split()[-1]
        systemctl("stop", AGENT, DAEMON)  # that empties what systemd keeps for them
        systemctl("start", AGENT, DAEMON)

    def install_keys(self):
        """Where the units' LoadCredential= looks for them."""
        for service, name in (("postcopyd", "destination"), ("postcopy-sourced", "source")):
            shutil.copy(self.pki / f"{name}.pem", ETC / f"{service}.crt")
            shutil.copy(self.pki / f"{name}.key", ETC / f"{service}.key")
        shutil.copy(self.pki / "ca.pem", ETC / "ca.crt")

    def _install(self, name, settings, more):
        shutil.copy(self._config(name, self._merge(settings, more or {})), ETC / f"{name}.conf")

    def stored(self, unit=DAEMON):
        """How many descriptors systemd keeps."""
        return int(systemctl("show", "--property", "NFileDescriptorStore", "--value", unit))

    def journal(self, unit=DAEMON):
        """What the service has said since this bed was made."""
        return journal(unit, f"--after-cursor={self.since}")

    def records(self, event, migration, field):
        """A field of the journal's records of one event, by its name in message_ids.h.
        Not by unit: journald does not know that of a process that has just died."""
        header = (e2e.ROOT / "lib/core/message_ids.h").read_text()
        found = re.search(rf'#define MESSAGE_{event} "(\w+)"', header)
        out = subprocess.run(["journalctl", "--output", "json", "--no-pager",
                              f"MESSAGE_ID={found[1]}", f"MIGRATION_ID={migration.id}"],
                             capture_output=True, text=True, timeout=e2e.PATIENCE,
                             check=True).stdout
        return [json.loads(line)[field] for line in out.splitlines()]

    def close(self, failed):
        try:
            for process in self.processes:
                process.kill()
            for m in self.migrations:
                self.ctl("cancel", "--force", m.id, status=None)
        finally:
            for proxy in self.proxies:
                proxy.close()
            if failed:
                for unit in (DAEMON, AGENT):
                    print(f"--- {unit}\n" + "\n".join(self.journal(unit).splitlines()[-60:]))
                self.print_logs()
            shutil.rmtree(self.dir, ignore_errors=True)
