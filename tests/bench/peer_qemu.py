# SPDX-License-Identifier: Apache-2.0
"""QEMU's own postcopy, over TLS and with postcopy-preempt, beside ours.

The same size of guest, the same pace of faults, in the same round. QEMU's guest
is a program without a kernel (qemu_guest/), which times its faults itself.
"""
import contextlib
import pathlib
import shutil
import subprocess
import tempfile
import time

from bed import FIRST_CPU, MIB, BenchBed
from cases_bulk import REAL_TIME
from e2e import BUILD, Skip, check, free_port
from qmp import Monitor, connect
from rounds import Figure, case

KERNEL = BUILD / "tests/bench/qemu_guest/bench-qemu-guest"
SIZE = 1024 * MIB
# What its bare guest fills (qemu_guest/guest.c).
FILLED = (1022 - 16) * MIB
PACE_US = 300
# No missing page comes as fast, and no touch of a present one takes as long.
HERE_ALREADY_US = 10
TIMER_HZ = 1193182  # the interval timer of a PC
HOST = "destination.postcopy.example"
CAPABILITIES = ("postcopy-ram", "postcopy-preempt")


def make_certificates(directory):
    """As QEMU names them; it wants key encipherment, which our own keys have no use for."""
    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=directory)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-days", "2",
            "-subj", "/CN=bench", "-addext", "keyUsage=critical,keyCertSign")
    for name in ("server", "client"):
        extensions = directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{HOST}\n"
                              "keyUsage=digitalSignature,keyEncipherment\n"
                              f"extendedKeyUsage={name}Auth\n")
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj",
                f"/CN={HOST}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca-cert.pem", "-CAkey",
                "ca-key.pem", "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out",
                f"{name}-cert.pem")


class Qemu:
    """One of the two: its monitor and its serial port."""

    def __init__(self, program, directory, name, endpoint, *options):
        self.name = name
        qmp, serial = directory / f"{name}.qmp", directory / f"{name}.serial"
        self.log = open(directory / f"{name}.log", "wb")  # pylint: disable=consider-using-with
        # pylint: disable=consider-using-with # ended by close()
        self.popen = subprocess.Popen(
            [program, "-M", "pc", "-accel", "tcg", "-m", str(SIZE // MIB), "-nodefaults",
             "-no-user-config", "-display", "none", "-kernel", KERNEL,
             "-chardev", f"socket,id=serial,path={serial},server=on,wait=off",
             "-serial", "chardev:serial", "-qmp", f"unix:{qmp},server=on,wait=off",
             "-object", f"tls-creds-x509,id=tls0,dir={directory},endpoint={endpoint},"
             "verify-peer=on", *options], stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log)
        self.monitor = Monitor(qmp, self.popen, name)
        self.serial = connect(serial, self.popen, name)
        self.lines = self.serial.makefile("r", encoding="ascii")
        self.monitor.set_capabilities(*CAPABILITIES, "events")

    def say(self, text):
        self.serial.sendall(text.encode())

    def line(self):
        line = self.lines.readline().strip()
        check(line, f"{self.name}: the guest has gone")
        return line

    def close(self):
        self.popen.kill()
        self.popen.wait()
        self.monitor.close()
        self.lines.close()
        self.serial.close()
        self.log.close()


def ticks_a_second(qemu):
    def now():
        qemu.say("t")
        return int(qemu.line(), 16), time.monotonic()
    (ticks0, time0), _, (ticks1, time1) = now(), time.sleep(0.5), now()
    return (ticks1 - ticks0) / (time1 - time0)


def migrate(source, destination):
    address = f"tcp:127.0.0.1:{free_port()}"
    destination.monitor.do("migrate-set-parameters", **{"tls-creds": "tls0"})
    destination.monitor.do("migrate-incoming", uri=address)
    # Nothing moves before the switch: this is about postcopy.
    source.monitor.do("migrate-set-parameters", **{
        "tls-creds": "tls0", "tls-hostname": HOST, "max-bandwidth": 65536,
        "max-postcopy-bandwidth": 0})
    source.monitor.do("migrate", uri=address)
    source.monitor.wait_status("active")
    source.monitor.do("migrate-start-postcopy")
    started = source.monitor.wait_status("postcopy-active")
    destination.monitor.wait_status("postcopy-active", "completed")
    return started


def qemu_run(program, directory):
    """Latencies in us, and seconds from the switch to the end."""
    with contextlib.ExitStack() as stack:
        make_certificates(directory)
        destination = Qemu(program, directory, "destination", "server", "-incoming", "defer")
        stack.callback(destination.close)
        source = Qemu(program, directory, "source", "client")
        stack.callback(source.close)
        check(source.line() == "F", "the bare guest did not start")
        rate, version = ticks_a_second(source), source.monitor.version()
        started = migrate(source, destination)
        numbers = (PACE_US * rate / 1e6, PACE_US * TIMER_HZ / 1e6, HERE_ALREADY_US * rate / 1e6)
        destination.say("g" + "".join(f"{int(n):x}\n" for n in numbers))
        seconds = source.monitor.wait_status("completed") - started
        destination.say("s")
        count = int(destination.line(), 16)
        faults = sorted(int(destination.line(), 16) / rate * 1e6 for _ in range(count))
    check(count >= 50, f"QEMU's guest had only {count} faults")
    return faults, seconds, version


def quantile(values, fraction):
    return values[int((len(values) - 1) * fraction)]


@case("qemu",
      Figure("qemu-p50", "QEMU's fault p50 during the stream / ours", ">=", 10),
      Figure("qemu-p99", "QEMU's fault p99 / ours", ">=", 50),
      Figure("qemu-rate", "our rate / QEMU's", ">=", 1.6), peer="qemu")
def qemu(context):
    if not shutil.which(context.qemu):
        raise Skip(f"{context.qemu} is not installed: apt-get install qemu-system-x86 seabios")
    if not KERNEL.exists():
        raise Skip(f"{KERNEL} is not built")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="postcopy-bench-qemu-"))
    try:
        faults, seconds, version = qemu_run(context.qemu, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    with BenchBed(*REAL_TIME) as bed:
        guest = bed.guest(size=SIZE, memory=context.memory)
        guest.begin(cpus=(FIRST_CPU,))
        guest.start_touching(pace_us=PACE_US)
        our_rate = SIZE / MIB / guest.finish()
        ours = guest.touched(100)
    p50, p99, rate = quantile(faults, 0.5), quantile(faults, 0.99), FILLED / MIB / seconds
    return {"qemu-p50": p50 / ours["p50_us"], "qemu-p99": p99 / ours["p99_us"],
            "qemu-rate": our_rate / rate, "QEMU p50 us": p50, "QEMU p99 us": p99,
            "QEMU MiB/s": rate, "QEMU faults": len(faults), "our p50 us": ours["p50_us"],
            "our p99 us": ours["p99_us"], "our MiB/s": our_rate, "our faults": ours["n"],
            "QEMU version": version}
