"""What a dump of a pool's metadata says: its volumes, what they map, and what that tells about their origin.

Source: ``thin_dump(8)`` of thin-provisioning-tools 1.1. Metadata knows no sizes and no names. It knows the mapped
blocks of each volume, and the pool's ``time`` (a count of snapshots taken) at which the volume was made and at which a
snapshot of it was last taken: a volume's last snapshot is the one whose ``creation_time`` is its ``snap_time``.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from appliance.errors import CannotTell


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


def shared_blocks(one: Volume, other: Volume) -> int:
    """How many blocks both have at the same place: the same data block at the same offset."""
    count, a, b = 0, 0, 0
    mine, theirs = one.runs, other.runs
    while a < len(mine) and b < len(theirs):
        first, second = mine[a], theirs[b]
        begin = max(first.origin, second.origin)
        end = min(first.origin + first.length, second.origin + second.length)
        if begin < end and first.data - first.origin == second.data - second.origin:
            count += end - begin
        if first.origin + first.length < second.origin + second.length:
            a += 1
        else:
            b += 1
    return count


def origin_of(volume: Volume, others: Iterable[Volume]) -> Volume | None:
    """The one of ``others`` that the volume was made from, as far as the metadata tells; None when nothing does.

    A snapshot shares blocks with its origin until all are written anew. Where the origin has none to share, the pool's
    time may still tell: it is that of the snapshot which was taken of the origin last. (Elsewhere it must not: a volume
    that was made empty has the time of the snapshot that was taken last of any.)
    """
    earlier = [other for other in others if other.thin_id != volume.thin_id and other.created < volume.created]
    ranked = sorted(((shared_blocks(volume, other), other.created, other) for other in earlier), key=lambda r: r[:2])
    if ranked and ranked[-1][0]:
        return ranked[-1][2]
    return next((other for other in earlier if not other.runs and other.snapped == volume.created), None)
