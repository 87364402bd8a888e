"""``hatchery-attach``: map a clone's export to /dev/nbdX on this host, list such devices, detach and look into them."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

from appliance.attach import attachment, look, target, watch
from appliance.attach.attachment import MOST_CONNECTIONS, PATIENCE, Options
from appliance.attach.look import Part
from appliance.errors import HatcheryError
from appliance.host.nbd import Device, Kernel
from appliance.run import Runner
from appliance.words import size

OK, FAILED, INTERRUPTED = 0, 1, 130
"""Exit statuses: done; an error that says why, with nothing half done; Ctrl-C."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="hatchery-attach", description=__doc__)
    verb = top.add_mutually_exclusive_group(required=True)
    verb.add_argument("uri", nargs="?", metavar="URI", help="the export: nbd://HOST[:PORT]/CLONE, or nbd+unix:///...")
    verb.add_argument("--list", action="store_true", help="list devices of the kernel's NBD client that are in use")
    verb.add_argument(
        "--look",
        metavar="URI",
        help="say which partitions an export has and what each holds: by a device that nobody can write to, and "
        "that is gone afterwards; nothing is mounted",
    )
    verb.add_argument("--detach", metavar="DEVICE|URI", help="flush a device and take it away")
    top.add_argument(
        "--watch",
        action="store_true",
        help="stay, and give the kernel a new connection whenever one dies; SIGTERM detaches what is not in use, and "
        "any other end leaves the device",
    )
    top.add_argument(
        "--connections",
        type=int,
        default=1,
        metavar="N",
        help=f"connections, 1 to {MOST_CONNECTIONS}, if the server allows several (default: 1)",
    )
    top.add_argument(
        "--dead-timeout",
        type=int,
        default=PATIENCE,
        metavar="SECONDS",
        help=f"how long requests wait without a connection before they fail (default: {PATIENCE})",
    )
    top.add_argument("--force", action="store_true", help="with --detach: unflushed, and though it is in use")
    top.add_argument("--json", action="store_true", help="results and errors as JSON")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _run(arguments)
    except HatcheryError as error:
        if arguments.json:
            fields = {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}
            sys.stdout.write(json.dumps({"error": fields}) + "\n")
        sys.stderr.write(f"hatchery-attach: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _run(arguments: argparse.Namespace) -> None:
    if arguments.list:
        with Kernel() as kernel:
            _list(kernel.devices(), as_json=arguments.json)
        return
    if arguments.detach is not None:
        with Kernel() as kernel:
            device = attachment.named(arguments.detach, kernel)
            attachment.detach(device, kernel, force=arguments.force)
            _say(device, as_json=arguments.json)
        return
    if arguments.look is not None:
        wanted = target.parse(arguments.look)
        with Kernel() as kernel:
            _show(look.look(wanted, kernel, Runner()), as_json=arguments.json)
        return
    wanted = target.parse(arguments.uri)
    options = attachment.check(Options(arguments.dead_timeout, arguments.connections))
    with Kernel() as kernel:
        if arguments.watch:
            signal.signal(signal.SIGTERM, watch.on_sigterm)
            watch.watch(wanted, options, kernel)
        else:
            _say(attachment.attach(wanted, options, kernel), as_json=arguments.json)


def _as_json(device: Device) -> dict[str, object]:
    return {
        "device": str(device.path),
        "export": device.identifier,
        "size": device.size,
        "read_only": device.read_only,
        "ours": attachment.ours(device),
    }


def _say(device: Device, *, as_json: bool) -> None:
    sys.stdout.write(json.dumps(_as_json(device)) + "\n" if as_json else f"{device.path}\n")


def _list(devices: Sequence[Device], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([_as_json(device) for device in devices], indent=2) + "\n")
        return
    for device in devices:
        mode = "read-only" if device.read_only else "writable"
        shown = device.identifier or "by another program"
        sys.stdout.write(f"{device.path!s:<12} {size(device.size):>10}  {mode:<9}  {shown}\n")


def _show(parts: Sequence[Part], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([asdict(part) for part in parts], indent=2) + "\n")
        return
    for part in parts:
        number = str(part.number) if part.number else "disk"
        words = "  ".join(word for word in (part.holds or "-", part.label, part.uuid, part.name) if word)
        sys.stdout.write(f"{number:<4} {size(part.start):>10} {size(part.size):>10}  {words}\n")


if __name__ == "__main__":
    sys.exit(main())
