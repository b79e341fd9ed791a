# SPDX-License-Identifier: Apache-2.0
"""A peer that is not who it must be gets nothing, and the operator is told why."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import os
import subprocess

from e2e import Bed, check, main, wait_until  # noqa: E402 pylint: disable=wrong-import-position

FAST = {"migrations": {"reconnect_min": "10ms", "reconnect_max": "100ms"}}


def refused(bed, *words, prepare=None, start=None, source=None):
    """Nothing is served, and show or the log has one of the words."""
    m = bed.migration("ram0:memfd:4M", poison=2)
    if prepare:
        prepare(bed)
    if source is not False:
        m.source(**(source or {}))
    m.start(**(start or {}))
    guest = m.destination("--eager", "--threads", "1")
    guest.wait_event("attached")
    texts = []

    def told():
        texts[:] = [m.show()["state_text"], bed.daemon.log_text(), bed.agent.log_text()]
        return any(w.lower() in t.lower() for w in words for t in texts[:2])
    wait_until(f"one of {words} is told", told)
    shown = m.show()
    check(shown["pages_data"] == 0, "pages were served")
    check(not guest.all("wrong-page"), "the guest saw something")
    print(f"   {shown['state']}: {shown['state_text']}")
    # The agent and the daemon still serve others.
    return m, guest


def still_serves(bed):
    bed.migration("ram0:memfd:8M", poison=4).run()


def remake(name, *options):
    def prepare(bed):
        for suffix in ("pem", "key"):
            os.unlink(bed.pki / f"{name}.{suffix}")
        bed.make_pki(bed.pki, "--cert", name, *options)
        restart(bed, name)
    return prepare


def restart(bed, name):
    if name == "source":
        bed.agent.kill(15)
        bed.agent = bed.start_agent()
    else:
        bed.daemon.kill(15)
        bed.daemon = bed.start_daemon()


def test_source_of_another_ca():
    def prepare(bed):
        other = bed.dir / "other"
        bed.make_pki(other)
        for suffix in ("pem", "key"):
            os.replace(other / f"source.{suffix}", bed.pki / f"source.{suffix}")
        restart(bed, "source")
    with Bed(FAST) as bed:
        refused(bed, "certificate", "unknown ca", "self-signed", "issuer", prepare=prepare)


def test_destination_of_another_ca():
    def prepare(bed):
        other = bed.dir / "other"
        bed.make_pki(other)
        for suffix in ("pem", "key"):
            os.replace(other / f"destination.{suffix}", bed.pki / f"destination.{suffix}")
        restart(bed, "destination")
    with Bed(FAST) as bed:
        refused(bed, "unknown ca", "alert", "certificate", prepare=prepare)


def test_source_has_another_name():
    with Bed(FAST) as bed:
        refused(bed, "other.example", start={"peer": "other.example"})
        still_serves(bed)


def test_destination_has_another_name():
    with Bed(FAST) as bed:
        refused(bed, "denied", "identity", "name", source={"peer": "other.example"})
        still_serves(bed)


def test_source_certificate_expired():
    with Bed(FAST) as bed:
        refused(bed, "expired", prepare=remake("source", "--days", "-1"))


def test_destination_certificate_expired():
    with Bed(FAST) as bed:
        refused(bed, "expired", prepare=remake("destination", "--days", "-1"))


def test_wrong_token():
    with Bed(FAST) as bed:
        m = bed.migration("ram0:memfd:4M")
        other = bed.token_file()
        m.source(token=other)
        m.start()
        m.destination("--eager").wait_event("attached")
        wait_until("the token is named", lambda: "token" in m.show()["state_text"])
        check(m.show()["pages_data"] == 0, "pages were served")
        still_serves(bed)


def test_migration_unknown_to_the_source():
    with Bed(FAST) as bed:
        m, _ = refused(bed, "unknown", "not exported", "no export", source=False)
        check(m.id in bed.agent.log_text() or m.id in m.show()["state_text"],
              "the id is not told")
        still_serves(bed)


def test_nothing_listens_there():
    with Bed(FAST) as bed:
        m = bed.migration("ram0:memfd:4M")
        m.start(source="127.0.0.1:1")
        m.destination("--eager").wait_event("attached")
        wait_until("the address is named", lambda: m.show()["peer"] == "127.0.0.1:1" and
                   "refused" in m.show()["state_text"].lower())


def openssl_client(bed, *options):
    r = subprocess.run(["openssl", "s_client", "-connect", bed.source_address, "-alpn",
                        "postcopy/1", *options], input=b"", capture_output=True, timeout=30,
                       check=False)
    return r.returncode, (r.stdout + r.stderr).decode(errors="replace")


def certificate(bed):
    return ["-cert", str(bed.pki / "destination.pem"), "-key", str(bed.pki / "destination.key"),
            "-CAfile", str(bed.pki / "ca.pem")]


def test_tls_1_2_client():
    with Bed(FAST) as bed:
        _, text = openssl_client(bed, "-tls1_2", *certificate(bed))
        check("protocol version" in text, text[-500:])
        wait_until("the agent tells it", lambda: "TLS 1.3 is required" in bed.agent.log_text())
        still_serves(bed)


def test_client_without_certificate():
    with Bed(FAST) as bed:
        openssl_client(bed, "-tls1_3")
        wait_until("the agent tells it", lambda: "certificate" in bed.agent.log_text().lower())
        still_serves(bed)


def test_not_tls_at_all():
    import socket  # pylint: disable=import-outside-toplevel
    with Bed(FAST) as bed:
        host, port = bed.source_address.split(":")
        with socket.create_connection((host, int(port))) as s:
            s.sendall(os.urandom(4096))
            try:
                while s.recv(4096):
                    pass
            except ConnectionError:
                pass
        still_serves(bed)


main(test_source_of_another_ca, test_destination_of_another_ca, test_source_has_another_name,
     test_destination_has_another_name, test_source_certificate_expired,
     test_destination_certificate_expired, test_wrong_token,
     test_migration_unknown_to_the_source, test_nothing_listens_there, test_tls_1_2_client,
     test_client_without_certificate, test_not_tls_at_all)
