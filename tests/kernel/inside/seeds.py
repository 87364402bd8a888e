"""Seeds, read as a guest reads them."""

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


def files() -> dict[str, str]:
    """What is there of seeds on the appliance: paths with modes."""
    return {str(path): stat.filemode(path.stat().st_mode) for path in Path("/run/hatchery/seeds").glob("*/*")}
