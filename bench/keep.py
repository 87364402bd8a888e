"""A demo that was left running: how to use it, and how to end it."""

import json
import shlex
import shutil
import socket
from pathlib import Path

from appliance.errors import InvalidInput
from appliance.remote import OPTIONS_VARIABLE
from appliance.wait import until
from bench.vm import LOOPBACK, PID_FILE, QMP_SOCKET, VM


def instructions(vm: VM, folder: Path, nbd_port: int, client: str) -> str:
    """How to log in, attach and end, ready to paste."""
    options = shlex.join(vm.ssh_options)
    return f"""
The appliance and its clones are still running, in {folder}.

Log in:
    ssh {options} {vm.destination}

Use it from here:
    export {OPTIONS_VARIABLE}={shlex.quote(options)}
    .venv/bin/hatchery --host {vm.destination} status
    .venv/bin/hatchery --host {vm.destination} clone list

Boot a clone (log in as hatchery, password hatchery; leave with Ctrl-A X):
    qemu-system-x86_64 -machine q35 -m 1G -nographic -bios /usr/share/ovmf/OVMF.fd \\
        -drive if=virtio,format=raw,file=nbd://{LOOPBACK}:{vm.port(nbd_port)}/demo-1

All exports of client {client}:
    qemu-nbd --list --bind={LOOPBACK} --port={vm.port(nbd_port)}

End it and remove everything:
    script/demo --stop {folder}
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
