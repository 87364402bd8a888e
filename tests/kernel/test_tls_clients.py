"""Clients over TLS: a client's own certificates let in, and nothing else does."""

import json
from collections.abc import Iterator

import pytest

from tests.kernel.inside import service as inside
from tests.kernel.inside import tls
from tests.kernel.lab import InsideError, Lab
from tests.kernel.service_lab import Daemon

HV1, HV2, TAKEN = 10811, 10812, 10813
REFUSED = ("SSLError", "SSLEOFError", "BrokenPipeError", "ConnectionResetError")
"""What becomes of somebody who is not let in: depends on whether he writes or reads when the server hangs up."""

OWN = "/etc/pki/libvirt-nbd"
"""Where `clone show` supposes that a hypervisor has its certificate."""


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    for client, port, clone in (("hv1", HV1, "web"), ("hv2", HV2, "db")):
        running.lab.run(["hatchery", "client", "add", client, "--tcp", f"{tls.ADDRESS}:{port}"])
        running.lab.call(inside.clones, clone, "debian", None, client)
    yield running
    print(running.job.stderr)


def serial(lab: Lab, verb: str, client: str, folder: str, *words: str) -> str:
    """Have a certificate made; its serial number."""
    said = lab.run(["hatchery", "client", verb, client, folder, *words]).stdout
    return next(line.split()[-1] for line in said.splitlines() if line.startswith("certificate"))


def refused(lab: Lab, folder: str | None, words: str, newest: str = "TLSv1_3") -> None:
    """hv1's daemon lets nobody in with what is in the folder, and says why."""
    with pytest.raises(InsideError) as caught:
        lab.call(tls.exports, HV1, folder, newest)
    assert caught.value.kind in REFUSED, caught.value
    lab.call(tls.said, "hv1", words)


def test_only_a_clients_own_certificate_lets_in(daemon: Daemon) -> None:
    lab = daemon.lab
    own = serial(lab, "certificate", "hv1", OWN)
    other = serial(lab, "certificate", "hv2", "/run/hv2")

    # As it is shown: libnbd by URI, QEMU by its command line. A client sees its own clones alone.
    web = json.loads(lab.run(["hatchery", "--json", "clone", "show", "web"]).stdout)
    assert lab.call(inside.read_back, web["uri"]) == lab.call(inside.digest)
    assert "verification failed" not in lab.call(tls.as_it_is_shown, "web", "write -P 7 1M 64k", "read -P 7 1M 64k")
    assert lab.call(tls.exports, HV1, OWN) == ["web"]
    assert lab.call(tls.exports, HV2, "/run/hv2") == ["db"]

    # Measured with the certificate that is here, and not as a client whose certificate is elsewhere.
    assert "virtual size: 24 MiB" in lab.call(tls.as_it_is_measured, "web")
    lab.call(tls.write_trace, "/run/boot.trace")
    words = ["hatchery", "measure", "replay", "/run/boot.trace", "-t", "debian", "--clones", "2", "--json"]
    replayed = json.loads(lab.run(words).stdout)
    assert replayed["read_bytes"] == 2 << 20
    assert not any("certificate" in note for note in replayed["notes"]), replayed["notes"]
    assert {each["device"] for each in replayed["histograms"]} >= {"clone replay-1", "clone replay-2"}
    elsewhere = lab.run([*words, "--client", "hv2"], check=False)
    assert (elsewhere.returncode, "not one of client hv2" in elsewhere.stdout + elsewhere.stderr) == (9, True)

    lab.call(tls.strangers_certificate, "hv1", "/run/stranger")
    lab.call(tls.unlisted_certificate, "hv1", "/run/unlisted")
    refused(lab, None, "No certificate was found")
    refused(lab, "/run/hv2", f"TLS x509 authz check for O=hv2,CN=certificate {other} is denied")
    refused(lab, "/run/stranger", "The certificate hasn't got a known issuer")
    refused(lab, "/run/unlisted", "TLS x509 authz check for O=hv1,CN=certificate ")
    refused(lab, OWN, "No supported cipher suites have been found", newest="TLSv1_2")
    assert "TLS negotiation required" in lab.call(tls.qemu_says, HV1, None, "web")
    lab.call(tls.said, "hv1", "not permitted before TLS")
    assert "virtual size" not in lab.call(tls.qemu_says, HV1, "/run/hv2", "web")
    assert "not present" in lab.call(tls.qemu_says, HV1, OWN, "db")
    lab.call(tls.said, "hv1", "export 'db' not present")
    assert "virtual size: 24 MiB" in lab.call(tls.qemu_says, HV1, OWN, "web")

    # A second writer is no client of another's clone: that is refused by the service, and in the audit log.
    second = lab.run(["hatchery", "clone", "attach", "web", "--client", "hv2"], check=False)
    assert (second.returncode, "hv1" in second.stderr) == (6, True)
    assert "PUT /v1/clones/web/attachment client=hv2: refused, in-use: " in daemon.job.stderr

    # A daemon that cannot listen says why, and its client is not there.
    program = lab.begin_call(tls.occupy, TAKEN, "/run/occupied")
    lab.call(tls.wait_for, "/run/occupied")
    done = lab.run(["hatchery", "client", "add", "hv3", "--tcp", f"{tls.ADDRESS}:{TAKEN}"], check=False)
    assert done.returncode == 9
    assert "Address already in use" in done.stderr
    assert "hv3" not in lab.run(["hatchery", "client", "list"]).stdout
    program.kill()

    # Revoked, while another one goes on being good; that one ends.
    newer = "/run/newer"
    serial(lab, "rotate", "hv1", newer)
    assert lab.call(tls.exports, HV1, OWN) == lab.call(tls.exports, HV1, newer) == ["web"]
    lab.run(["hatchery", "client", "revoke", "hv1", "--older"])
    refused(lab, OWN, f"TLS x509 authz check for O=hv1,CN=certificate {own} is denied")
    revoked = [
        line for line in daemon.job.stderr.splitlines() if "POST /v1/clients/hv1/revocations which=older" in line
    ]
    assert [line.endswith(": done") for line in revoked] == [True], "who revoked it is in the audit log"
    assert lab.call(tls.exports, HV1, newer) == ["web"]
    lab.call(tls.later, 366)
    refused(lab, newer, "The certificate is not trusted")


@pytest.mark.heavy
def test_a_revocation_ends_open_connections_and_a_rotation_does_not(daemon: Daemon) -> None:
    lab = daemon.lab
    first = serial(lab, "certificate", "hv1", "/run/first")
    guest = lab.begin_call(tls.hold, HV1, "/run/first", "web", "/run/entered", timeout=150)
    lab.call(tls.wait_for, "/run/entered")
    pid = lab.call(inside.daemon_pid, "hv1")

    serial(lab, "rotate", "hv1", "/run/second")
    assert lab.call(inside.daemon_pid, "hv1") == pid
    assert not guest.done()
    assert lab.call(tls.exports, HV1, "/run/first") == lab.call(tls.exports, HV1, "/run/second") == ["web"]

    lab.run(["hatchery", "client", "revoke", "hv1", "--older"])
    assert guest.result() == "ended"
    denied = f"TLS x509 authz check for O=hv1,CN=certificate {first} is denied"
    refused(lab, "/run/first", denied)
    assert lab.call(tls.exports, HV1, "/run/second") == ["web"]

    # It stays so when daemons die.
    lab.call(inside.kill_daemon, "hv1")
    daemon.kill()
    refused(lab, "/run/first", denied)
    assert lab.call(tls.exports, HV1, "/run/second") == ["web"]
