"""An operator's own authority: what QEMU makes of certificates that it signed, here or elsewhere."""

import json
from collections.abc import Iterator

import pytest

from tests.kernel.inside import own_authority as own
from tests.kernel.inside import service as inside
from tests.kernel.inside import tls
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

HV1 = 10811


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    running.lab.run(["hatchery", "client", "add", "hv1", "--tcp", f"{tls.ADDRESS}:{HV1}"])
    running.lab.call(inside.clones, "web", "debian", None, "hv1")
    running.lab.call(own.make, tls.ADDRESS)
    yield running
    print(running.job.stderr)


def test_an_operators_own_authority_signs_here_or_elsewhere(daemon: Daemon) -> None:
    lab = daemon.lab
    lets_in = "virtual size: 24 MiB"

    def issue(verb: str, folder: str, *words: str) -> str:
        done = lab.run(["hatchery", "--json", "client", verb, "hv1", folder, *words])
        return str(json.loads(done.stdout)["serial"])

    # Its key is here: certificates are made as before, of a request too. Another's is forced.
    issue("certificate", "/run/first")
    use = ["hatchery", "authority", "use", "--certificate", f"{own.FOLDER}/below.pem"]
    use += ["--chain", f"{own.FOLDER}/root.pem"]
    with_key = [*use, "--key", f"{own.FOLDER}/below.key"]
    refused = lab.run(with_key, check=False)
    assert (refused.returncode, "certificates that are good" in refused.stderr) == (6, True)
    assert lets_in in lab.call(tls.qemu_says, HV1, "/run/first", "web")
    lab.run([*with_key, "--force"])
    assert lets_in not in lab.call(tls.qemu_says, HV1, "/run/first", "web")
    issue("certificate", "/run/second")
    assert lets_in in lab.call(tls.qemu_says, HV1, "/run/second", "web")
    issue("rotate", "/run/third", "--csr", f"{own.FOLDER}/request.csr")
    lab.call(own.complete, "/run/third", "request.key")
    assert lets_in in lab.call(tls.qemu_says, HV1, "/run/third", "web")

    # Its key is elsewhere.
    without = [*use, "--server-certificate", f"{own.FOLDER}/server.pem", "--server-key", f"{own.FOLDER}/server.key"]
    lab.run(without)  # the same authority: what it signed goes on
    assert lets_in in lab.call(tls.qemu_says, HV1, "/run/second", "web")
    refused = lab.run(["hatchery", "client", "rotate", "hv1", "/run/none"], check=False)
    assert (refused.returncode, "no certificate can be signed here" in refused.stderr) == (7, True)
    issue("rotate", "/run/fourth", "--signed", f"{own.FOLDER}/client.pem")
    lab.call(own.complete, "/run/fourth", "client.key")
    assert lets_in in lab.call(tls.qemu_says, HV1, "/run/fourth", "web")
    daemon.kill()
    lab.call(inside.kill_daemon, "hv1")
    assert lets_in in lab.call(tls.qemu_says, HV1, "/run/fourth", "web")

    # To be signed by it is not enough, and a revocation counts.
    lab.call(own.as_client, "/run/fourth", "/run/stranger", "stranger")
    assert lets_in not in lab.call(tls.qemu_says, HV1, "/run/stranger", "web")
    lab.call(tls.said, "hv1", "TLS x509 authz check for O=hv1,CN=never given is denied")
    lab.run(["hatchery", "client", "revoke", "hv1"])
    assert lets_in not in lab.call(tls.qemu_says, HV1, "/run/fourth", "web")
    lab.call(tls.said, "hv1", "TLS x509 authz check for O=hv1,CN=signed outside 1 is denied")

    lab.run(["hatchery", "authority", "renew"])
    issue("rotate", "/run/fifth")
    assert lets_in in lab.call(tls.qemu_says, HV1, "/run/fifth", "web")
