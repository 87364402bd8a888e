"""What the kernel's tracepoint says of requests, as it was recorded, and the filter that picks devices."""

from pathlib import Path

import pytest

from appliance.errors import InvalidInput, NotReady
from appliance.host import trace
from appliance.host.trace import Batch, Request, Tracer
from appliance.model import KIB, MIB

DATA = Path(__file__).resolve().parents[1] / "data/trace"


def lines(name: str) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").splitlines()


def test_reads_and_writes_are_told_in_bytes_and_microseconds() -> None:
    found = trace.parse(lines("6.18-block-bio-queue.txt"))
    assert found.lost == 0
    assert found.requests[0] == Request("7:0", write=False, offset=7840 * 512, length=4096, micros=58292873233)
    assert [request.write for request in found.requests].count(True) == 2
    # A flush and a discard are in the record as well, and move no data.
    assert len(found.requests) == len(lines("6.18-block-bio-queue.txt")) - 2


def test_a_write_that_flushes_first_is_a_write() -> None:
    line = "  jbd2-7  [001] ..... 1.000002: block_bio_queue: 254,1 FWFS 16 + 8 [a (strange) [name]"
    assert trace.parse([line]).requests == (Request("254:1", write=True, offset=8192, length=4096, micros=1_000_002),)


def test_what_several_processors_saw_is_put_in_order() -> None:
    found = trace.parse(reversed(lines("6.18-block-bio-queue.txt")))
    assert found == trace.parse(lines("6.18-block-bio-queue.txt"))


def test_lost_events_are_counted() -> None:
    found = trace.parse(lines("6.18-lost.txt"))
    assert (len(found.requests), found.lost) == (2, 476)
    assert trace.parse(["CPU:3 [LOST EVENTS]", *lines("6.18-lost.txt")]).lost == -1


def test_other_lines_say_nothing() -> None:
    assert (
        trace.parse(["", "# tracer: nop", " x-1 [000] ..... 1.000000: block_bio_complete: 7,0 R 8 + 8 [0]"]) == Batch()
    )


def test_the_filter_names_devices_as_the_kernel_does() -> None:
    assert trace.filter_for(["254:3", "7:0"]) == f"dev == {254 << 20 | 3} || dev == {7 << 20}"
    for wrong in ("", "254", "254:x", "254:3 || 1"):
        with pytest.raises(InvalidInput):
            trace.filter_for([wrong])


def test_buffers_are_bounded_on_large_machines() -> None:
    assert trace.buffer_bytes(2) == 4 * MIB
    assert trace.buffer_bytes(64) == MIB
    assert trace.buffer_bytes(4096) == 256 * KIB


def test_a_kernel_without_tracepoints_is_told(tmp_path: Path) -> None:
    tracer = Tracer(root=tmp_path)
    with pytest.raises(NotReady, match="cannot be recorded here"):
        tracer.watch(["254:1"])
    assert tracer.read() == Batch()
    tracer.watch([])
    tracer.close()
