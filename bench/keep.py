"""A demo that was left running: how to use it, and how to end it."""

import json
import os
import shlex
import shutil
import socket
import sys
from pathlib import Path

from appliance.errors import InvalidInput
from appliance.measure import qemu
from appliance.remote import OPTIONS_VARIABLE
from appliance.wait import until
from bench.vm import LOOPBACK, PID_FILE, QMP_SOCKET, VM

BIOS = "/usr/share/ovmf/OVMF.fd"
"""The firmware with variables that nobody keeps: a clone finds its loader in the usual place."""


def write(vm: VM, output: Path, nbd_port: int) -> None:
    """Leave two files in ``output``: ``use``, which a shell reads to have the commands lead to the appliance, and
    ``boot``, which boots a clone of its client at the terminal.
    """
    programs = Path(sys.executable).parent
    use = {
        "HATCHERY_HOST": vm.destination,
        OPTIONS_VARIABLE: shlex.join(vm.ssh_options),
        "DEMO": str(vm.folder),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in use.items()]
    (output / "use").write_text("\n".join([*lines, f"PATH={programs}:$PATH", ""]), encoding="utf-8")
    words = [
        qemu.QEMU,
        *("-machine", "q35", *qemu.accelerator().words, "-m", "1G", "-smp", "2", "-nographic"),
        *("-bios", BIOS, "-nic", "user,model=virtio-net-pci", "-drive"),
    ]
    drive = f"if=virtio,format=raw,cache=none,discard=unmap,file=nbd://{LOOPBACK}:{vm.port(nbd_port)}/"
    boot = output / "boot"
    boot.write_text(
        "#!/bin/sh\n"
        "# Boots a clone of the demo's client: boot CLONE. Ctrl-A X leaves it.\n"
        f'exec {shlex.join(words)} "{drive}${{1:?which clone}}"\n',
        encoding="utf-8",
    )
    boot.chmod(0o755)


def instructions(vm: VM, output: Path, nbd_port: int, client: str) -> str:
    """How to use what was left running, and how to end it, ready to paste."""
    here = os.path.relpath(output)
    return f"""
The appliance and its clones are still running, in {vm.folder}.

Use it from this shell:
    . {here}/use
    hatchery status
    hatchery template add mine MY-IMAGE.qcow2
    hatchery clone create web --template mine --client {client}

Boot a clone (the sample guest: log in as hatchery, password hatchery; leave with Ctrl-A X):
    {here}/boot demo-1

All exports of client {client}:
    qemu-nbd --list --bind={LOOPBACK} --port={vm.port(nbd_port)}

Log in to the appliance:
    ssh {shlex.join(vm.ssh_options)} {vm.destination}

End it and remove everything:
    script/demo --stop {vm.folder}
"""


def stop(folder: Path) -> None:
    """Switch the machine in ``folder`` off and remove the folder. Raises InvalidInput when it is not a demo's."""
    pid_file = folder / PID_FILE
    if not folder.name.startswith("hatchery-demo-") or not (folder / "system.qcow2").exists():
        raise InvalidInput(f"{folder} is not the folder of a demo", hint="give the folder that --keep named")
    if pid_file.exists():
        pid = int(pid_file.read_text())
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(folder / QMP_SOCKET))
            except ConnectionRefusedError:
                pass  # it has ended already
            else:
                for command in ("qmp_capabilities", "quit"):
                    connection.sendall(json.dumps({"execute": command}).encode() + b"\n")
                until(lambda: not Path(f"/proc/{pid}").exists(), f"QEMU ({pid}) to end", deadline=60)
    shutil.rmtree(folder)
