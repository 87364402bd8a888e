"""What a dump of a pool's metadata tells about where its volumes come from."""

from collections.abc import Iterable

from appliance.host.thin_dump import Volume


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
