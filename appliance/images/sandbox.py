"""Transient units for work on what strangers sent: by a user that nobody else is, without rights, within bounds."""

from collections.abc import Sequence

from appliance.run import Runner

SYSTEM_CALLS = (
    *("@aio", "@basic-io", "@default", "@file-system", "@io-event", "@ipc", "@memlock", "@network-io", "@process"),
    *("@signal", "@sync", "@timer"),
    *("capget", "copy_file_range", "fadvise64", "flock", "get_mempolicy", "getcpu", "getpriority", "ioctl", "madvise"),
    *("mremap", "sched_get_priority_max", "sched_get_priority_min", "sched_getattr", "sched_getparam"),
    *("sched_getscheduler", "sysinfo", "umask", "uname"),
)
"""@system-service without what only the privileged need, as one list (systemd.exec(5))."""

CONFINED = (
    "DynamicUser=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateMounts=yes",
    "PrivateUsers=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "InaccessiblePaths=-/var/lib/hatchery -/etc/hatchery -/run/hatchery",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    f"SystemCallFilter={' '.join(SYSTEM_CALLS)}",
    # What programs try and can do without (QEMU and io_uring) must fail, not kill.
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
    # To the service manager SIGTERM is a good end, and what was stopped half-way would seem done.
    "KillSignal=SIGKILL",
    "MemorySwapMax=0",
    "TasksMax=32",
    "CPUWeight=20",
    "IOWeight=20",
)
"""Settings that all of these units have; devices, network, memory and time are each one's own."""


def unit(
    name: str, settings: Sequence[str], command: Sequence[str], bound_to: str | None = "hatcheryd.service"
) -> tuple[str, ...]:
    """What runs a command in a confined unit that ends with the service it is bound to, and is gone when it ends.

    Standard input, output and error are the caller's, and so is the exit status.
    """
    words = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", f"--unit={name}"]
    if bound_to is not None:
        words.append(f"--property=BindsTo={bound_to}")
    words += [f"--property={setting}" for setting in (*CONFINED, *settings)]
    return (*words, *command)


RUNNING = ("hatchery-import@*.service", "hatchery-unpack@*.service", "hatchery-fetch@*.service")
"""The units that are made of it."""

_HELD = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "PrivateUsers": "yes",
    "ProtectSystem": "strict",
    "CapabilityBoundingSet": "",
}
_ALONE = "hatchery-fetch@"
"""Units named so have a network, and no others."""


def breaches(runner: Runner) -> tuple[str, ...]:
    """What units that work on what strangers sent may do and must not, at this moment. Raises CommandFailed."""
    names = ",".join(("Id", *_HELD, "PrivateNetwork"))
    return parse_breaches(runner.run(["systemctl", "show", f"--property={names}", *RUNNING]).stdout)


def parse_breaches(text: str) -> tuple[str, ...]:
    """The same from what ``systemctl show`` says: the properties of one unit after the other, a blank line between."""
    found = []
    for piece in text.strip().split("\n\n"):
        said = dict(line.partition("=")[::2] for line in piece.splitlines())
        name = said.get("Id", "")
        wanted = _HELD if name.startswith(_ALONE) else {**_HELD, "PrivateNetwork": "yes"}
        wrong = [f"{key}={said.get(key, '')}" for key, value in wanted.items() if said.get(key) != value]
        if name and wrong:
            found.append(f"{name} is not confined: {', '.join(wrong)}")
    return tuple(found)
