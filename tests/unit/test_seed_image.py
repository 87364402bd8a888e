"""What is in a seed, and what is refused to be in one."""

import io
import json

import pytest
import yaml
from pycdlib.pycdlib import PyCdlib

from appliance.errors import InvalidInput
from appliance.images import seed
from appliance.images.seed import Seed

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@here"
OTHER = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTY="
SCRIPT = "#!/bin/sh\necho 'päss'\n"


def read(image: bytes) -> dict[str, bytes]:
    """The files of an image, by the names that Linux shows; those for Windows are the same."""
    disk = PyCdlib()
    disk.open_fp(io.BytesIO(image))
    found = {}
    for name in ("meta-data", "user-data"):
        both = []
        for way in ("rr_path", "joliet_path"):
            target = io.BytesIO()
            disk.get_file_from_iso_fp(target, **{way: f"/{name}"})
            both.append(target.getvalue())
        assert both[0] == both[1]
        found[name] = both[0]
    label = disk.pvd.volume_identifier.decode().strip()
    disk.close()
    assert label == "CIDATA"
    return found


def test_user_data_is_given_as_it_is_and_keys_come_beside_it() -> None:
    found = read(seed.image(Seed("web-7", "web", (KEY,), SCRIPT)))
    assert found["user-data"] == SCRIPT.encode()
    assert yaml.safe_load(found["meta-data"]) == {
        "instance-id": "web-7", "local-hostname": "web", "public-keys": [KEY]
    }  # fmt: skip
    assert "päss" not in repr(Seed("web-7", "web", (KEY,), SCRIPT))


def test_without_user_data_hostname_and_keys_make_it() -> None:
    found = read(seed.image(Seed("web-8", "web.example.com", (KEY, OTHER))))
    first, _, rest = found["user-data"].decode().partition("\n")
    assert first == "#cloud-config"
    assert yaml.safe_load(rest) == {"hostname": "web", "fqdn": "web.example.com", "ssh_authorized_keys": [KEY, OTHER]}
    assert json.loads(found["meta-data"]) == {"instance-id": "web-8", "local-hostname": "web.example.com"}
    plain = read(seed.image(Seed("web-9", "web")))["user-data"].decode()
    assert yaml.safe_load(plain) == {"hostname": "web"}


def test_the_longest_user_data_fits() -> None:
    long = "#cloud-config\n" + "#" * (seed.MOST_USER_DATA - 14)
    assert read(seed.image(Seed("a", "a", (), seed.check_user_data(long))))["user-data"] == long.encode()


@pytest.mark.parametrize(
    "text",
    [
        "#cloud-config\n",
        "#cloud-config-archive\n",
        "#!/bin/sh\n",
        "Content-Type: multipart/mixed\n",
        "MIME-Version: 1.0",
    ],
)
def test_what_cloud_init_takes_is_taken(text: str) -> None:
    assert seed.check_user_data(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins neither"),
        ("secret: x", "begins neither"),
        ("\n#cloud-config", "begins neither"),
        ("\ufeff#cloud-config", "begins neither"),
        ("#cloud-config\nsecret" + "x" * seed.MOST_USER_DATA, "65556"),
        ("#!\n" + "ä" * (seed.MOST_USER_DATA // 2), "65539"),
        ("#!\nsecret\0", "zero byte"),
        ("#!\nsecret\ud800", "not UTF-8"),
    ],
)
def test_other_user_data_is_refused_and_not_repeated(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        seed.check_user_data(text)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_keys_are_lines_of_authorized_keys() -> None:
    assert seed.check_keys(["", "# mine", f" {KEY} ", OTHER, KEY]) == (KEY, OTHER)
    for wrong in ("ssh-ed25519", "root", f"{KEY}\nhostname: x", f"command=x {KEY}", f"{KEY}\x07", KEY + "x" * 20000):
        with pytest.raises(InvalidInput, match="not a public key"):
            seed.check_keys([wrong])
    with pytest.raises(InvalidInput, match="private key"):
        seed.check_keys(["-----BEGIN OPENSSH PRIVATE KEY-----", "c2VjcmV0"])
    with pytest.raises(InvalidInput, match="101 keys"):
        seed.check_keys([f"{KEY} {number}" for number in range(101)])


@pytest.mark.parametrize(
    ("clone", "host"), [("web-1", "web-1"), ("my_web.2", "my-web.2"), ("a_._b", "a.b"), ("a..b", "a.b"), ("7", "7")]
)
def test_a_clones_name_becomes_a_hostname(clone: str, host: str) -> None:
    assert seed.check_hostname(seed.hostname_of(clone)) == host


@pytest.mark.parametrize("text", ["", "-a", "a-", "a_b", "a b", "a..b", ".a", "ä", "a\n", "a" * 65, "a." * 40 + "a"])
def test_what_is_no_hostname_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a hostname"):
        seed.check_hostname(text)
