"""Seeds, read as a guest reads them."""

import shutil
import stat
from pathlib import Path

from appliance.client import connect
from appliance.run import Runner
from appliance.schema import CloneCreate, SeedSpec


def create(name: str, template: str, client: str, count: int | None, seed: dict[str, object]) -> list[str]:
    """Make clones with seeds; the seeds' addresses."""
    spec = SeedSpec.model_validate(seed)
    with connect() as api:
        made = api.create_clones(CloneCreate(name=name, template=template, count=count, client=client, seed=spec))
    return [str(clone.seed.uri) for clone in made if clone.seed is not None]


def read(uri: str) -> dict[str, str]:
    """The files on a seed, with the label and the kind of the file system by which cloud-init finds it."""
    run = Runner().run
    copy, mounted = Path("/run/seed.iso"), Path("/run/seed")
    copy.unlink(missing_ok=True)
    run(["nbdcopy", uri, copy])
    found = {tag: run(["blkid", "-p", "-s", tag, "-o", "value", copy]).stdout.strip() for tag in ("LABEL", "TYPE")}
    mounted.mkdir(exist_ok=True)
    for module in ("loop", "isofs"):
        run(["modprobe", module], check=False)
    run(["mount", "-t", "iso9660", "-o", "ro,loop", copy, mounted])
    try:
        return found | {path.name: path.read_text(encoding="utf-8") for path in mounted.iterdir()}
    finally:
        run(["umount", mounted])


CLOUD = Path("/etc/cloud/cloud.cfg.d/99-lab.cfg")
"""NoCloud is asked alone, and no network is set up: there is none."""


def cloud_init(uri: str) -> dict[str, str]:
    """Boot a guest as far as cloud-init goes: the seed is a disk of this machine, and all of its stages run.

    Returns the machine's name, whom the seed lets in, what its script left, and which instance it was.
    """
    run = Runner().run
    run(["modprobe", "nbd"], check=False)
    run(["modprobe", "isofs"], check=False)
    # What cloud-init keeps for the time until the next boot, it believes without a look at the seed.
    shutil.rmtree("/run/cloud-init", ignore_errors=True)
    CLOUD.write_text("datasource_list: [NoCloud, None]\nnetwork: {config: disabled}\n", encoding="ascii")
    device = run(["hatchery-attach", uri]).stdout.strip()
    try:
        for stage in (["init", "--local"], ["init"], ["modules", "--mode=config"], ["modules", "--mode=final"]):
            done = run(["cloud-init", *stage], timeout=180, check=False)
            print(done.stdout[-2000:], done.stderr[-2000:])
    finally:
        run(["hatchery-attach", "--detach", device])
    return {
        "hostname": run(["hostname"]).stdout.strip(),
        "keys": _text(Path("~debian/.ssh/authorized_keys").expanduser()),
        "script": _text(Path("/run/seed-was-here")),
        "instance": _text(Path("/var/lib/cloud/data/instance-id")),
        "source": _text(Path("/run/cloud-init/cloud-id")),
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def files() -> dict[str, str]:
    """What is there of seeds on the appliance: paths with modes."""
    return {str(path): stat.filemode(path.stat().st_mode) for path in Path("/run/hatchery/seeds").glob("*/*")}
