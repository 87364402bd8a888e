import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import BadImage
from appliance.images import qcow2
from appliance.images.qcow2 import Layout
from tests.unit.qcow2_files import CLUSTER, Image


def judge(data: bytes) -> Layout:
    header = qcow2.parse_header(data[: 2 * 1024 * 1024])
    return qcow2.scan(header, lambda offset, length: data[offset : offset + length], len(data))


def test_a_whole_image_is_accepted_and_measured() -> None:
    assert judge(Image().build()) == Layout(virtual_size=4 * CLUSTER, allocated_bytes=2 * CLUSTER)


def test_version_2_is_accepted() -> None:
    assert judge(Image(version=2).build()).virtual_size == 4 * CLUSTER


@pytest.mark.parametrize("features", [1 << 0, 1 << 3])
def test_features_that_do_no_harm_are_accepted(features: int) -> None:
    assert judge(Image(features=features).build()).allocated_bytes == 2 * CLUSTER


def test_harmless_extensions_are_accepted() -> None:
    names = (0x6803F857, b"\0" * 48)
    assert judge(Image(extensions=[names]).build()).allocated_bytes == 2 * CLUSTER


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image(backing_offset=512), "backing file"),
        (Image(features=1 << 2), "data in another file"),
        (Image(features=1 << 1), "marked corrupt"),
        (Image(features=1 << 17), "0x20000"),
        (Image(crypt=1), "encrypted"),
        (Image(crypt=2), "encrypted"),
        (Image(version=4), "version 4"),
        (Image(cluster_bits=8), "2\\*\\*8"),
        (Image(cluster_bits=22), "2\\*\\*22"),
        (Image(size=0), "empty"),
        (Image(size=1 << 62), "too large"),
        (Image(size=1 << 40, l1_entries=1), "L1 table has 1 entries"),
        (Image(l1_entries=1 << 31), "L1 table has"),
        (Image(l1_offset=0), "L1 table is at 0"),
        (Image(l1_offset=CLUSTER + 8), "L1 table is at"),
        (Image(l1_offset=1 << 50), "past its end"),
        (Image(header_bytes=8), "claims 8 bytes"),
        (Image(header_bytes=1 << 30), "claims"),
        (Image(extensions=[(0x44415441, b"/etc/shadow")]), "header extension 0x44415441"),
        (Image(extensions=[(0xE2792ACA, b"raw")]), "header extension 0xe2792aca"),
        (Image(extensions=[(0x0537BE77, bytes(16))]), "encryption"),
        (Image(l1=[1 << 50 | 1 << 63]), "L2 table 0 lies past its end"),
        (Image(l1=[2 * CLUSTER + 512]), "L2 table 0 is at"),
        (Image(l2_entries=[1 << 50]), "cluster 0 lies past its end"),
        (Image(l2_entries=[3 * CLUSTER + 512]), "cluster 0 is at"),
        (Image(l2_entries=[1 << 62 | 1 << 50]), "cluster 0 lies past its end"),
    ],
)
def test_damaged_and_hostile_images_are_refused(image: Image, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        judge(image.build())


def test_another_format_is_named_as_such() -> None:
    with pytest.raises(BadImage, match="not a qcow2 image"):
        judge(b"KDMV" + bytes(1000))


def test_zero_clusters_take_no_space_and_compressed_ones_a_whole() -> None:
    entries = [1, 3 * CLUSTER | 1, 1 << 62 | 3 * CLUSTER + 77, 3 * CLUSTER | 1 << 63]
    assert judge(Image(l2_entries=entries).build()).allocated_bytes == 2 * CLUSTER


def test_of_the_last_cluster_only_what_the_guest_sees_has_to_be_there() -> None:
    image = Image(size=2 * CLUSTER + 512)
    whole = image.build()
    assert judge(whole[: 4 * CLUSTER + 512]).allocated_bytes == 2 * CLUSTER
    with pytest.raises(BadImage, match="truncated"):
        judge(whole[: 4 * CLUSTER + 511])


@given(cut=st.integers(0, 5 * CLUSTER - 1))
@settings(max_examples=200, deadline=None)
def test_every_truncation_is_seen(cut: int) -> None:
    with pytest.raises(BadImage):
        judge(Image().build()[:cut])


@given(where=st.integers(0, 3 * CLUSTER - 1), what=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_any_damage_is_refused_or_harmless(where: int, what: int) -> None:
    data = bytearray(Image().build())
    data[where] = what
    try:
        layout = judge(bytes(data))
    except BadImage:
        return
    assert layout.allocated_bytes <= layout.virtual_size + CLUSTER
