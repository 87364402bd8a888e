import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.config import Paths
from appliance.errors import CannotTell, DeadlineExceeded, InUse, NotFound, NotReady, Unhealthy
from appliance.host import storage_daemon
from appliance.host.qmp import Qmp, QmpError
from appliance.host.storage_daemon import Export, Files, Listen, Passed, Server, ServerConfig, StorageDaemon
from appliance.model import MIB, NO_LIMITS, Limits
from appliance.nbd_server import prepare, settings
from tests.unit.model_daemon import ModelDaemon

WEB = Export("clone-1", "web", Path("/dev/mapper/hatchery-clone-1"))
DB = Export("clone-2", "db", Path("/dev/mapper/hatchery-clone-2"), Limits(iops=500, bandwidth=100 * MIB))
FREE, HELD = {"iops-total": 0, "bps-total": 0}, {"iops-total": 500, "bps-total": 100 * MIB}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    config = ServerConfig("local", Listen(path=made.socket), (WEB,))
    made.config.write_text(storage_daemon.render(config), encoding="utf-8")
    return made


@pytest.fixture
def running(files: Files) -> Iterator[ModelDaemon]:
    daemon = ModelDaemon(files)
    yield daemon
    daemon.stop()


def test_the_settings_file_comes_back_as_it_was_written() -> None:
    for listen in (Listen(path=Path("/run/x.sock")), Listen(address="::1", port=10809, tls=True)):
        config = ServerConfig("hv1", listen, (WEB, DB), ("O=hv1,CN=certificate 1",), max_connections=7)
        assert storage_daemon.parse(storage_daemon.render(config)) == config


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"client": "x", "listen": {}, "exports": []}', "\x00"])
def test_a_damaged_settings_file_is_not_guessed_at(text: str) -> None:
    with pytest.raises(Unhealthy, match=r"server\.json is damaged"):
        storage_daemon.parse(text)


def test_the_command_line_serves_past_the_page_cache(files: Files) -> None:
    words = storage_daemon.command(ServerConfig("local", Listen(path=files.socket), (WEB, DB)), files, "io_uring")
    assert words[0] == "qemu-storage-daemon"
    blockdevs = [json.loads(words[at + 1]) for at, word in enumerate(words) if word == "--blockdev"]
    exports = [json.loads(words[at + 1]) for at, word in enumerate(words) if word == "--export"]
    held = blockdevs[1]["file"]
    disks = [blockdevs[0]["file"], held["file"]]
    assert [(d["driver"], d["aio"]) for d in disks] == [("host_device", "io_uring")] * 2
    # A filter that does not say so keeps discards for itself.
    assert {(node["cache"]["direct"], node["discard"]) for node in (*blockdevs, held, *disks)} == {(True, "unmap")}
    assert [(e["name"], e["writable"], e["iothread"]) for e in exports] == [("web", True, "io0"), ("db", True, "io0")]
    assert words[words.index("--object") + 1] == "iothread,id=io0,poll-max-ns=0"
    # What an option refers to comes before it.
    assert words.index("--object") < words.index("--nbd-server") < words.index("--blockdev")


def test_connections_are_counted_and_have_to_say_what_they_want(files: Files) -> None:
    words = storage_daemon.command(ServerConfig("hv1", Listen(path=files.socket), (), (), 7), files, "native")
    server = json.loads(words[words.index("--nbd-server") + 1])
    assert (server["max-connections"], server["handshake-max-seconds"]) == (7, 10)
    told = [words[at + 1] for at, word in enumerate(words) if word == "--trace"]
    assert told == ["nbd_negotiate_send_rep_err", "nbd_handshake_timer_cb"]


def test_an_export_with_limits_has_a_filter_in_a_group_of_its_own(files: Files) -> None:
    """One without has none: each costs something whenever an export comes or goes, also another one's."""
    words = storage_daemon.command(ServerConfig("local", Listen(path=files.socket), (WEB, DB)), files, "native")
    objects = [words[at + 1] for at, word in enumerate(words) if word == "--object"]
    (group,) = (json.loads(each) for each in objects if each.startswith("{"))
    assert (group["qom-type"], group["limits"]) == ("throttle-group", HELD)
    free, held = (json.loads(words[at + 1]) for at, word in enumerate(words) if word == "--blockdev")
    assert [(node["driver"], node["node-name"]) for node in (free, held)] == [("raw", "clone-1"), ("raw", "clone-2")]
    assert free["file"]["driver"] == "host_device"
    assert (held["file"]["driver"], held["file"]["throttle-group"]) == ("throttle", group["id"])


def held(running: ModelDaemon) -> dict[str, dict[str, int]]:
    return {node: running.held(node) for node in sorted(running.nodes)}


def test_limits_change_while_it_runs(running: ModelDaemon, files: Files) -> None:
    daemon = StorageDaemon(files, "native")
    daemon.limit(WEB)
    assert (held(running), running.filters) == ({"clone-1": FREE}, {})
    daemon.limit(replace(WEB, limits=DB.limits))
    assert held(running) == {"clone-1": HELD}
    daemon.limit(replace(WEB, limits=Limits(iops=10)))
    assert held(running) == {"clone-1": {"iops-total": 10, "bps-total": 0}}
    daemon.limit(DB)
    assert running.exports == {"clone-1": "web"}, "it is not exported, and stays so"
    daemon.sync([WEB, DB])
    assert held(running) == {"clone-1": FREE, "clone-2": HELD}
    daemon.sync([replace(WEB, limits=DB.limits), DB])
    assert held(running) == {"clone-1": HELD, "clone-2": HELD}
    daemon.sync([])
    assert (running.limits, running.nodes, running.filters) == ({}, set(), {})


def test_limits_that_cannot_be_set_are_told(running: ModelDaemon, files: Files) -> None:
    daemon = StorageDaemon(files, "native")
    for command, export in (
        ("blockdev-reopen", replace(WEB, limits=DB.limits)),
        ("blockdev-add", replace(WEB, limits=DB.limits)),
        ("qom-set", WEB),
    ):
        running.refuse = {command: "out of range"}
        if command == "blockdev-add":
            running.below.clear()
            running.filters.clear()
        with pytest.raises(Unhealthy, match=r"limits of web.*out of range"):
            daemon.limit(export)
    running.refuse = {}
    daemon.limit(replace(WEB, limits=DB.limits))
    assert held(running) == {"clone-1": HELD}, "what was half done"


def test_what_was_begun_is_ended(running: ModelDaemon, files: Files) -> None:
    """A hatcheryd that is killed leaves a group or a filter without a node, or a node without a filter or export."""
    daemon = StorageDaemon(files, "native")
    running.limits["clone-2"] = dict(FREE)
    daemon.add([DB])
    assert (running.exports["clone-2"], held(running)["clone-2"]) == ("db", HELD)
    del running.exports["clone-2"]
    del running.below["clone-2"]
    daemon.add([DB])
    assert (running.exports["clone-2"], held(running)["clone-2"]) == ("db", HELD)
    del running.exports["clone-2"]
    daemon.remove(DB)
    assert (running.limits, running.filters, running.nodes) == ({}, {}, {"clone-1"})
    running.limits["clone-2"] = dict(FREE)
    running.filters["clone-2-limit"] = "clone-2"
    daemon.remove(DB)
    assert (running.limits, running.filters) == ({}, {})
    running.limits["clone-2"] = dict(FREE)
    running.filters["clone-2-limit"] = "clone-2"
    daemon.add([DB])
    assert (running.exports["clone-2"], held(running)["clone-2"]) == ("db", HELD)


def test_what_cannot_be_opened_leaves_no_group(running: ModelDaemon, files: Files) -> None:
    running.refuse["blockdev-add"] = "Could not open '/dev/mapper/hatchery-clone-2'"
    with pytest.raises(Unhealthy, match=r"db cannot be exported.*Could not open"):
        StorageDaemon(files, "native").add([DB])
    assert running.limits == {}


def test_a_daemon_with_tls_lets_in_named_certificates_alone(files: Files) -> None:
    config = ServerConfig("hv1", Listen(address="::1", port=10809, tls=True), (WEB,), ("O=hv1,CN=certificate 1",))
    words = storage_daemon.command(config, files, "native", Path("/run/tls"))
    server = json.loads(words[words.index("--nbd-server") + 1])
    objects = [words[at + 1] for at, word in enumerate(words) if word == "--object"]
    tls, door = (json.loads(each) for each in objects if each.startswith("{"))
    assert (server["tls-creds"], server["tls-authz"]) == (tls["id"], door["id"])
    assert (tls["endpoint"], tls["dir"], tls["verify-peer"]) == ("server", "/run/tls", True)
    assert tls["priority"] == "NORMAL:-VERS-ALL:+VERS-TLS1.3"
    assert door["policy"] == "deny"
    assert door["rules"] == [{"match": "O=hv1,CN=certificate 1", "policy": "allow", "format": "exact"}]
    with pytest.raises(Unhealthy, match="no certificate"):
        storage_daemon.command(config, files, "native")


def test_a_daemon_without_tls_has_no_door(files: Files) -> None:
    words = storage_daemon.command(ServerConfig("hv1", Listen(address="::1", port=10809), (WEB,)), files, "native")
    assert "tls-creds" not in " ".join(words)


def test_who_is_let_in_changes_while_it_runs(running: ModelDaemon, files: Files) -> None:
    StorageDaemon(files, "native").allow(["O=hv1,CN=certificate 2"])
    assert running.allowed == ("O=hv1,CN=certificate 2",)
    running.refuse["qom-set"] = "no such object"
    with pytest.raises(Unhealthy, match="no such object"):
        StorageDaemon(files, "native").allow([])


def test_io_uring_is_used_where_the_kernel_lets_us(tmp_path: Path) -> None:
    setting = tmp_path / "io_uring_disabled"
    assert storage_daemon.aio_engine(setting) == "native"
    setting.write_text("0\n")
    assert storage_daemon.aio_engine(setting) == "io_uring"
    setting.write_text("2\n")
    assert storage_daemon.aio_engine(setting) == "native"


def test_exports_come_and_go(running: ModelDaemon, files: Files) -> None:
    daemon = StorageDaemon(files, "native")
    assert daemon.exports() == {"clone-1"}
    daemon.add([DB, WEB])
    daemon.add([DB])
    assert running.exports == {"clone-1": "web", "clone-2": "db"}
    daemon.remove(WEB)
    daemon.remove(WEB)
    assert running.exports == {"clone-2": "db"}
    assert running.nodes == {"clone-2"}
    daemon.sync([WEB])
    assert running.exports == {"clone-1": "web"}


def test_it_takes_few_words_to_export_and_to_take_back(running: ModelDaemon, files: Files) -> None:
    """QEMU reads them byte by byte, and a thousand clones may be there."""
    daemon = StorageDaemon(files, "native")
    free = replace(DB, limits=NO_LIMITS)
    daemon.add([free])
    assert running.commands == ["qmp_capabilities", "blockdev-add", "block-export-add"]
    running.commands.clear()
    daemon.remove(free)
    assert running.commands[1:] == ["query-block-exports", "block-export-del", "blockdev-del", "qom-get"]
    running.commands.clear()
    many = [replace(DB, node=f"clone-{number}") for number in range(10, 20)]
    daemon.add(many)
    daemon.add(many)
    assert running.commands.count("query-block-exports") == 1


def test_a_used_export_is_removed_by_force_only(running: ModelDaemon, files: Files) -> None:
    running.connected.add("clone-1")
    daemon = StorageDaemon(files, "native")
    with pytest.raises(InUse, match="still in use"):
        daemon.remove(WEB)
    assert running.exports
    daemon.cut_off(WEB)
    assert not running.exports


def test_a_refusal_carries_qemu_s_words(running: ModelDaemon, files: Files) -> None:
    running.refuse["blockdev-add"] = "Could not open '/dev/mapper/hatchery-clone-2'"
    with pytest.raises(Unhealthy, match="Could not open"):
        StorageDaemon(files, "native").add([DB])


def test_events_in_between_are_kept(running: ModelDaemon, files: Files) -> None:
    running.events_first.append({"event": "BLOCK_EXPORT_DELETED", "data": {"id": "other"}})
    with Qmp(files.qmp, deadline=2) as qmp:
        assert len(qmp.execute("query-block-exports")) == 1
        assert qmp.wait_event("BLOCK_EXPORT_DELETED", {"id": "other"})["data"] == {"id": "other"}
        with pytest.raises(DeadlineExceeded):
            Qmp.wait_event(qmp, "BLOCK_EXPORT_DELETED", {"id": "never"})


def test_a_refused_command_is_an_error(running: ModelDaemon, files: Files) -> None:
    running.refuse["stop"] = "not now"
    with Qmp(files.qmp) as qmp, pytest.raises(QmpError, match="GenericError: not now"):
        qmp.execute("stop")


def test_a_daemon_that_is_down_is_not_ready(files: Files) -> None:
    with pytest.raises(NotReady, match="no storage daemon"):
        StorageDaemon(files, "native").exports()


@pytest.mark.usefixtures("running")
def test_a_daemon_that_hangs_up_cannot_tell(files: Files) -> None:
    with Qmp(files.qmp) as qmp:
        qmp._socket.shutdown(2)
        with pytest.raises(CannotTell):
            qmp.execute("query-block-exports")


def test_a_starting_daemon_leaves_out_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = Paths(run=tmp_path)
    files = Files(paths.nbd("local"))
    files.folder.mkdir(parents=True)
    device = tmp_path / "device"
    device.touch()
    there = Export("clone-3", "there", device)
    files.config.write_text(storage_daemon.render(ServerConfig("local", Listen(path=files.socket), (WEB, there))))
    for left in (files.socket, files.qmp, files.pid):
        left.touch()
    words = prepare(settings("local", paths), paths, 7)
    assert [json.loads(words[at + 1])["name"] for at, word in enumerate(words) if word == "--export"] == ["there"]
    assert "web is not exported" in caplog.text
    assert json.loads(words[words.index("--nbd-server") + 1])["addr"] == {"type": "fd", "str": "7"}
    assert not any(left.exists() for left in (files.qmp, files.pid))
    assert files.socket.exists(), "it is the listener's to remove, which may have been kept"


def test_a_daemons_key_is_where_systemd_put_it_or_where_root_left_it(tmp_path: Path) -> None:
    paths = Paths(run=tmp_path)
    files = Files(paths.nbd("hv1"))
    files.folder.mkdir(parents=True)
    config = ServerConfig("hv1", Listen(address="::1", port=1, tls=True), ())
    files.config.write_text(storage_daemon.render(config))
    for environment, folder in (({}, paths.tls("hv1")), ({"CREDENTIALS_DIRECTORY": "/run/c"}, Path("/run/c"))):
        found = [json.loads(word) for word in prepare(config, paths, 7, environment) if "tls-creds-x509" in word]
        assert [Path(each["dir"]) for each in found] == [folder]


def test_a_daemon_without_settings_says_who_writes_them(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="hatcheryd writes them"):
        settings("local", Paths(run=tmp_path))


def test_a_daemon_passes_on_what_another_server_exports(running: ModelDaemon, files: Files) -> None:
    server = Server("192.0.2.1", 10809, "debian@1", tls=True)
    passed = Passed("far", "far", Path(), writable=False, server=server, patience=10, opening=5)
    disk = passed.disk("io_uring")
    assert (disk["driver"], disk["export"], disk["tls-creds"]) == ("nbd", "debian@1", storage_daemon.SHOWN)
    assert (disk["reconnect-delay"], disk["open-timeout"], disk["cache"]["direct"]) == (10, 5, True)
    # Whether it may be written shows only so; nobody writes to it.
    assert (disk["read-only"], disk["auto-read-only"], passed.export()["writable"]) == (False, True, False)
    assert "tls-creds" not in replace(passed, server=replace(server, tls=False)).disk("io_uring")
    assert str(server) == "nbds://192.0.2.1:10809/debian@1"
    assert str(Server("::1", 1, "x")) == "nbd://[::1]:1/x"
    StorageDaemon(files, "threads").add([passed])
    assert running.exports["far"] == "far"
    with pytest.raises(NotFound, match="no node nothing"):
        StorageDaemon(files, "threads").read_only("nothing")


def test_who_asks_another_server_shows_it_a_certificate(files: Files, tmp_path: Path) -> None:
    config = ServerConfig("hatchery-source-1", Listen(path=files.socket), (), asks=True)
    assert storage_daemon.parse(storage_daemon.render(config)) == config
    # A former release's file has no word of it.
    old = json.loads(storage_daemon.render(config))
    del old["asks"]
    assert not storage_daemon.parse(json.dumps(old)).asks
    words = storage_daemon.command(config, files, "io_uring", tmp_path)
    (shown,) = [json.loads(word) for word in words if word.startswith("{") and "tls-creds" in word]
    assert (shown["endpoint"], shown["dir"], shown["verify-peer"]) == ("client", str(tmp_path), True)
