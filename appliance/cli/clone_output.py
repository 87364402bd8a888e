"""How clones are shown: as a table, and one with all that is known of it."""

import shlex
from collections.abc import Sequence

from appliance import schema
from appliance.cli import client_nvme
from appliance.cli.options import Session
from appliance.cli.output import out, print_fields, print_json, state, table, when
from appliance.measure.histogram import ascii_form
from appliance.model import CloneKind, Histogram
from appliance.words import micros, size

KINDS = {
    CloneKind.DURABLE: "durable: it survives the loss of the NVMe drive",
    CloneKind.EPHEMERAL: "ephemeral: it is gone when its NVMe drive is",
}
"""What an operator should know of each kind."""


def print_list(run: Session, views: Sequence[schema.CloneView]) -> None:
    """A row for each."""
    if run.as_json:
        print_json(views)
        return
    rows = table("CLONE", "TEMPLATE", "KIND", "STATE", ">SIZE", ">WRITTEN", "CLIENT", "ADDRESS", "CREATED", "EXPIRES")
    for view in views:
        rows.add_row(
            view.name,
            view.template,
            view.kind.value,
            state(view.state),
            size(view.size),
            size(view.written_bytes),
            (view.client or "-") + ("" if view.shared is None else f", {view.shared.client}"),
            view.uri or ("-" if view.nvme is None else f"nvme-tcp {view.nvme.address}:{view.nvme.port}"),
            when(view.created),
            "-" if view.expires is None else when(view.expires),
        )
    out().print(rows)


def print_one(run: Session, view: schema.CloneView) -> None:
    """All of one."""
    if run.as_json:
        print_json(view)
        return
    print_fields(
        {
            "clone": view.name,
            "template": view.template,
            "kind": KINDS[view.kind],
            "state": state(view.state),
            "size": size(view.size),
            "used": f"{size(view.mapped_bytes)}, blocks shared with the template included",
            "written": f"{size(view.written_bytes)} since it was attached",
            "latency": _latency(view.latencies),
            "client": view.client or "nobody",
            "shared": "-"
            if view.shared is None
            else f"with {view.shared.client} until {when(view.shared.until)}: {view.shared.uri}",
            "address": view.uri or ("-" if view.nvme is None else view.nvme.nqn),
            "device": view.device,
            "created": when(view.created),
            "expires": "never" if view.expires is None else when(view.expires),
            "limits": _limits(view.limits),
            "seed": "none" if view.seed is None else f"hostname {view.seed.hostname}, {view.seed.uri or 'detached'}",
        }
    )
    if view.latencies is not None and any(view.latencies.counts):
        shown = ascii_form(view.latencies.counts)
        out().print(f"\nLatencies of its requests since it was attached, in microseconds:\n{shown}", soft_wrap=True)
    if view.nvme is not None:
        words = shlex.join(view.nvme.connect)
        secret = f'--dhchap-secret="$(cat {client_nvme.KEY})"'
        out().print(f"\nConnect it on the client's host, as root:\n{words} {secret}", soft_wrap=True, markup=False)
        out().print(f"It is {view.nvme.device} there then.", soft_wrap=True, markup=False)
    if view.qemu:
        out().print(f"\nBoot it with QEMU:\n{command_line(view.qemu)}", soft_wrap=True)
    if view.shared is not None:
        words, where = command_line(view.shared.qemu), view.shared.client
        out().print(f"\nWhere its guest migrates to, {where}:\n{words} -incoming defer", soft_wrap=True)
    if view.libvirt:
        out().print(f"\nIn a libvirt domain:\n{view.libvirt}", soft_wrap=True)
    if view.shared is not None:
        out().print(f"\nIn that domain on {view.shared.client}:\n{view.shared.libvirt}", soft_wrap=True)


def _limits(view: schema.CloneLimits) -> str:
    each = (
        None if view.iops is None else f"{view.iops} requests/s",
        None if view.bandwidth is None else f"{size(view.bandwidth)}/s",
    )
    return ", ".join(filter(None, each)) or "none"


def _latency(view: schema.HistogramView | None) -> str:
    if view is None:
        return "-"
    found = Histogram(view.counts)
    if not found.total:
        return "no requests yet"
    half, most = micros(found.bound(0.5)), micros(found.bound(0.99))
    return f"{found.total:,} requests, half of them within {half}, 99 % within {most}"


def command_line(disk: Sequence[str]) -> str:
    """A ready command line around the words for the disk, an option a line."""
    words = ["-machine", "q35", "-m", "2G", "-nographic", "-bios", "/usr/share/ovmf/OVMF.fd", *disk]
    lines = ["qemu-system-x86_64"]
    for word in words:
        if word.startswith("-"):
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)
