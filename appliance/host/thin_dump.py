"""What a dump of a pool's metadata says: its volumes and what they map.

Source: ``thin_dump(8)`` of thin-provisioning-tools 1.1. Metadata knows no sizes and no names. It knows the mapped
blocks of each volume, and the pool's ``time`` (a count of snapshots taken) at which the volume was made and at which a
snapshot of it was last taken: a volume's last snapshot is the one whose ``creation_time`` is its ``snap_time``.
"""

import xml.etree.ElementTree as ET
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from appliance.errors import CannotTell
from appliance.model import Extent, joined
from appliance.run import Runner


@dataclass(frozen=True, slots=True)
class Run:
    """A run of mapped blocks: where it begins in the volume, where in the pool's data, how many blocks."""

    origin: int
    data: int
    length: int


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume in a dump. Counts are pool blocks, ``created`` and ``snapped`` the pool's time."""

    thin_id: int
    mapped: int
    created: int
    snapped: int
    runs: tuple[Run, ...] = ()

    @property
    def end(self) -> int:
        """The first block after the last one that is mapped; 0 when none is known to be."""
        return self.runs[-1].origin + self.runs[-1].length if self.runs else 0


@dataclass(frozen=True, slots=True)
class Superblock:
    """The pool as a dump describes it. ``block`` in sectors, ``data_blocks`` in blocks."""

    transaction_id: int
    block: int
    data_blocks: int


def read(source: Path | IO[bytes]) -> tuple[Superblock, tuple[Volume, ...]]:
    """Read a dump in XML. Raises CannotTell when it is cut off or not one."""
    found: Superblock | None = None
    volumes: list[Volume] = []
    shared: dict[str, list[Run]] = {}
    runs: list[Run] = []
    try:
        # What is read was printed by thin_dump on this machine, or is compared with a digest.
        for event, element in ET.iterparse(source, events=("start", "end")):  # noqa: S314
            if event == "start":
                if element.tag in ("device", "def"):
                    runs = []
                elif element.tag == "superblock":
                    found = Superblock(
                        *(int(element.attrib[key]) for key in ("transaction", "data_block_size", "nr_data_blocks"))
                    )
                continue
            if element.tag == "def":
                shared[element.attrib["name"]] = runs
            elif element.tag == "device":
                volumes.append(_volume(element, runs))
            elif element.tag == "ref":
                runs.extend(shared[element.attrib["name"]])
            else:
                runs.extend(_run(element))
            element.clear()
    except (ET.ParseError, KeyError, ValueError, OSError) as error:
        raise CannotTell("the dump of the pool's metadata cannot be read", why=str(error)) from error
    if found is None:
        raise CannotTell("the dump of the pool's metadata cannot be read", why="it has no superblock")
    return found, tuple(volumes)


def dumped(runner: Runner, metadata: Path, *options: str, deadline: float) -> tuple[Superblock, tuple[Volume, ...]]:
    """What a running pool maps, from the metadata snapshot that the caller has reserved. ``options`` of thin_dump.

    Takes at most ``deadline`` seconds. Raises CannotTell, DeadlineExceeded.
    """
    with TemporaryFile() as file:
        with runner.start(["thin_dump", "--metadata-snap", *options, metadata], stdout=file) as process:
            status = process.wait(deadline)
        if status:
            raise CannotTell("the pool's metadata cannot be read", why=f"thin_dump ended with {status}")
        file.seek(0)
        return read(file)


def places(runs: Iterable[Run], block: int, extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Where extents of a volume lie in the pool's data, ascending there and joined; holes are left out. Pure.

    ``runs`` are all of the volume's, ``block`` is the pool's block in bytes.
    """
    ordered = sorted(runs, key=lambda run: run.origin)
    starts = [run.origin * block for run in ordered]
    found: list[Extent] = []
    for extent in extents:
        at = max(bisect_right(starts, extent.offset) - 1, 0)
        while at < len(ordered) and starts[at] < extent.end:
            run = ordered[at]
            begin = max(extent.offset, starts[at])
            end = min(extent.end, starts[at] + run.length * block)
            if begin < end:
                found.append(Extent(begin - starts[at] + run.data * block, end - begin))
            at += 1
    return joined(found)


def _run(element: ET.Element) -> Iterator[Run]:
    get = element.attrib
    if element.tag == "single_mapping":
        yield Run(int(get["origin_block"]), int(get["data_block"]), 1)
    elif element.tag == "range_mapping":
        yield Run(int(get["origin_begin"]), int(get["data_begin"]), int(get["length"]))


def _volume(element: ET.Element, runs: list[Run]) -> Volume:
    keys = ("dev_id", "mapped_blocks", "creation_time", "snap_time")
    thin_id, mapped, created, snapped = (int(element.attrib[key]) for key in keys)
    return Volume(thin_id, mapped, created, snapped, tuple(runs))
