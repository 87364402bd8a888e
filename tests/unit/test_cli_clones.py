"""The commands of a clone's later life, over the real API, with the model of the store below."""

from pathlib import Path

import pytest

from appliance.cli.options import duration, parse_size
from appliance.errors import InvalidInput
from appliance.model import GIB, MIB
from tests.unit.service_harness import IMAGE
from tests.unit.test_cli import Appliance, appliance, image
from tests.unit.test_seed_image import KEY

__all__ = ["appliance", "image"]


@pytest.fixture
def web(appliance: Appliance, image: Path) -> Appliance:
    """An appliance with the clone ``web`` of ``debian-13@1``."""
    appliance.json("template", "add", "debian-13", str(image))
    appliance.json("clone", "create", "web", "-t", "debian-13")
    return appliance


def test_a_clone_is_leased_and_renewed(web: Appliance) -> None:
    made = web.json("clone", "create", "ci", "-t", "debian-13", "--expires", "8h", "--count", "2")
    assert [round(view["expires"] - view["created"]) for view in made] == [8 * 3600] * 2
    assert web.json("clone", "renew", "ci-1", "--expires", "30m")["expires"] < made[0]["expires"]
    assert web.json("clone", "renew", "ci-2", "--never")["expires"] is None
    status, out, _ = web.run("clone", "show", "web")
    assert (status, "expires:  never" in out) == (0, True)
    for wrong in ((), ("--never", "--expires", "1h"), ("--expires", "soon")):
        assert web.run("clone", "renew", "ci-1", *wrong)[0] == 3


def test_a_clone_is_reset_resized_and_promoted(web: Appliance) -> None:
    before = web.json("clone", "show", "web")
    after = web.json("clone", "reset", "web")
    assert after["device"] != before["device"]
    assert {**after, "device": "", "qemu": []} == {**before, "device": "", "qemu": []}
    assert web.json("clone", "resize", "web", "64M")["size"] == 64 * MIB
    status, _, err = web.run("clone", "resize", "web", "4M")
    assert (status, "cannot be made smaller" in err) == (3, True)
    assert web.json("clone", "promote", "web")["ref"] == "debian-13@2"
    status, out, _ = web.run("clone", "promote", "web", "--template", "golden")
    assert (status, out) == (0, "clone web is template golden@1 now; the clone itself stays\n")


@pytest.mark.parametrize("columns", [None, "80"], ids=["no width said", "COLUMNS exported"])
def test_a_row_of_a_table_into_a_pipe_is_one_line(
    web: Appliance, monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    """A pipe's reader takes lines apart: no terminal's width breaks names there."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    name = f"job-{'0123456789' * 5}"
    web.json("clone", "create", name, "-t", "debian-13")
    _, out, _ = web.run("clone", "list")
    rows = {words[0]: words for line in out.splitlines()[1:] if (words := line.split())}
    assert set(rows) == {"web", name}
    assert "debian-13@1" in rows[name]


def test_a_clone_is_limited_at_any_time(web: Appliance) -> None:
    made = web.json("clone", "create", "ci", "-t", "debian-13", "--iops", "500", "--bandwidth", "100M", "--count", "2")
    assert [view["limits"] for view in made] == [{"iops": 500, "bandwidth": 100 * MIB}] * 2
    assert "limits:   none" in web.run("clone", "show", "web")[1]
    web.run("clone", "limit", "web", "--iops", "20")
    status, out, _ = web.run("clone", "limit", "web", "--bandwidth", "1M")
    assert (status, "limits:   20 requests/s, 1.0 MiB/s" in out) == (0, True)
    assert web.json("clone", "limit", "web", "--none", "--iops", "30")["limits"] == {"iops": 30, "bandwidth": None}
    found = {view["name"]: view["limits"]["iops"] for view in web.json("clone", "list")}
    assert found == {"ci-1": 500, "ci-2": 500, "web": 30}
    assert web.json("clone", "limit", "web", "--none")["limits"] == {"iops": None, "bandwidth": None}
    status, _, err = web.run("clone", "limit", "web")
    assert (status, "no limit is said" in err) == (3, True)
    status, _, err = web.run("clone", "limit", "web", "--bandwidth", "1K")
    assert (status, "from 1.0 MiB" in err) == (3, True)
    assert web.run("clone", "limit", "web", "--iops", "0")[0] == 2


def test_a_clone_that_is_shared_is_shown_as_each_of_the_two_has_it(web: Appliance) -> None:
    for client, port in (("hv1", 10809), ("hv2", 10810)):
        web.json("client", "add", client, "--tcp", f"127.0.0.1:{port}", "--plain")
    web.json("clone", "move", "web", "--client", "hv1")
    status, out, _ = web.run("clone", "attach", "web", "--client", "hv2", "--shared")
    assert status == 0
    assert out == web.run("clone", "show", "web")[1], "what is needed for a migration is said at once, and later again"
    _, first, second, domain, other = out.split("\n\n")
    for where, port, told in (("first", 10809, first), ("hv2", 10810, second)):
        assert f'"port": "{port}"' in told, where
    assert second.startswith("Where its guest migrates to, hv2:\n")
    assert second.endswith(" -incoming defer")
    assert '<host name="127.0.0.1" port="10809" />' in domain
    assert other.startswith("In that domain on hv2:\n")
    assert '<host name="127.0.0.1" port="10810" />' in other
    web.json("clone", "move", "web", "--client", "hv2")
    assert "10809" not in web.run("clone", "show", "web")[1]


def test_an_ephemeral_clone_needs_a_fast_pool(web: Appliance) -> None:
    status, _, err = web.run("clone", "create", "quick", "-t", "debian-13", "--ephemeral")
    assert status == 9
    assert "there is no fast pool" in err


def test_a_version_goes_with_its_last_clone(web: Appliance, image: Path) -> None:
    web.json("template", "add", "debian-13", str(image))
    status, _, err = web.run("template", "remove", "debian-13")
    assert (status, "debian-13@1, debian-13@2" in err) == (7, True)
    assert web.run("template", "remove", "debian-13@1")[0] == 6
    status, out, _ = web.run("template", "remove", "debian-13@1", "--when-unused")
    assert (status, out) == (0, "template debian-13@1 goes with the last of its clones\n")
    assert "retired" in web.run("template", "list")[1]
    web.json("clone", "remove", "web")
    assert [view["ref"] for view in web.json("template", "list")] == ["debian-13@2"]


def test_a_plan_is_shown_and_done(web: Appliance) -> None:
    assert web.run("store", "reconcile")[1] == "catalog and kernel agree\n"
    web.box.pool.deactivate(2)
    for words in (("--dry-run",), ()):
        assert "activate volume 2 of clone web" in web.run("store", "reconcile", *words)[1]
    assert web.json("store", "reconcile", "--dry-run") == {"steps": [], "problems": []}
    assert web.box.pool.path(2).read_bytes() == IMAGE


def test_times_and_sizes() -> None:
    assert [duration(text) for text in ("90s", "15m", "8h", "7d", "2w")] == [90, 900, 28800, 604800, 1209600]
    assert [parse_size(text) for text in ("512", "512M", "40G", "1T", "3g")] == [
        512, 512 * MIB, 40 * GIB, 1024 * GIB, 3 * GIB
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "8", "h", "0h", "-1h", "1.5h", "8 h", "8y"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a time"):
        duration(text)


@pytest.mark.parametrize("text", ["", "G", "0G", "-1G", "1.5G", "40 G", "40X", "40GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a size"):
        parse_size(text)


def test_clones_move_to_another_client(web: Appliance) -> None:
    web.json("clone", "create", "db", "-t", "debian-13")
    web.json("client", "add", "lab")
    status, _, err = web.run("clone", "move", "web", "--client", "nobody")
    assert (status, "client nobody does not exist" in err) == (4, True)
    assert web.run("clone", "move", "web")[0] == 2
    status, out, _ = web.run("clone", "move", "web", "--client", "lab")
    assert (status, "client:   lab" in out) == (0, True)
    assert [(view["name"], view["client"]) for view in web.json("clone", "move", "db", "web", "--client", "lab")] == [
        ("db", "lab"), ("web", "lab")
    ]  # fmt: skip
    web.box.units.daemons["lab"].connected.add("clone-2")
    status, _, err = web.run("clone", "move", "web", "db", "--client", "local")
    assert (status, "client lab is connected to it" in err) == (6, True)
    assert {view["client"] for view in web.json("clone", "list")} == {"lab"}
    assert web.run("clone", "move", "web", "db", "--client", "local", "--force")[0] == 0
    assert {view["client"] for view in web.json("clone", "list")} == {"local"}


def test_seeds_of_clones(web: Appliance, tmp_path: Path) -> None:
    secret, key = tmp_path / "user-data", tmp_path / "id.pub"
    secret.write_text("#!/bin/sh\necho hunter2\n")
    key.write_text(f"# mine\n{KEY}\n\n")
    words = ("-t", "debian-13", "--user-data", str(secret), "--ssh-key", str(key), "--count", "2")
    made = web.json("clone", "create", "ci", *words)
    assert [view["seed"]["hostname"] for view in made] == ["ci-1", "ci-2"]
    status, out, _ = web.run("clone", "show", "ci-1")
    assert (status, "seed:     hostname ci-1, nbd+unix:///ci-1:seed" in out) == (0, True)
    status, out, _ = web.run("clone", "seed", "show", "ci-1")
    assert (status, KEY in out, "hunter2" in out) == (0, True, False)
    status, _, err = web.run("clone", "seed", "show", "web")
    assert (status, "has no seed" in err) == (4, True)
    assert web.json("clone", "seed", "set", "web", "--hostname", "www.example.com")["hostname"] == "www.example.com"
    assert web.json("clone", "seed", "set", "web")["hostname"] == "web"
    assert web.json("clone", "seed", "remove", "web") == {"name": "web", "removed": True}
    status, out, _ = web.run("clone", "seed", "remove", "web")
    assert (status, out) == (0, "clone web has no seed\n")
    secret.write_text("echo hunter2")
    status, out, err = web.run("clone", "seed", "set", "web", "--user-data", str(secret))
    assert (status, "#cloud-config" in err, "hunter2" in out + err) == (3, True, False)
    secret.write_bytes(b"\x1f\x8b\x08")
    key.write_text("# none\n")
    for wrong in (("--user-data", str(secret)), ("--user-data", "/nowhere"), ("--ssh-key", str(key))):
        assert web.run("clone", "seed", "set", "web", *wrong)[0] == 3
