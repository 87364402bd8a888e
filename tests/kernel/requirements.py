"""What a lab needs of the machine that it runs on."""

import os
import shutil
from pathlib import Path

from appliance.run import Runner
from tests.kernel.lab import CHECKOUT


def tree() -> Path:
    """The Debian 13 tree: $HATCHERY_LAB_TREE, or built (or found) by ``script/image lab``, which may take minutes."""
    given = os.environ.get("HATCHERY_LAB_TREE")
    if given:
        return Path(given)
    done = Runner().run([CHECKOUT / "script" / "image", "lab"], timeout=1800)
    return Path(done.stdout.strip().splitlines()[-1])


def unmet() -> str:
    """Why a lab cannot run on this machine, with what to do; empty if it can."""
    if os.geteuid() != 0:
        return "the kernel tier mounts file systems: run it as root"
    for program in ("unshare", "setpriv", "chroot", "cp"):
        if shutil.which(program) is None:
            return f"the kernel tier needs {program}: run script/bootstrap"
    return ""
