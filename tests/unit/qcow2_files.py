"""Little qcow2 images made by hand after docs/interop/qcow2.rst; real ones are in the kernel tier."""

import struct
from dataclasses import dataclass, field

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS


@dataclass
class Image:
    """A version 3 image: header, L1, L2, then ``data`` in clusters. Fields may be set to lies."""

    data: list[bytes] = field(default_factory=lambda: [b"boot" * (CLUSTER // 4), b"root" * (CLUSTER // 4)])
    version: int = 3
    backing_offset: int = 0
    cluster_bits: int = CLUSTER_BITS
    size: int = 4 * CLUSTER
    crypt: int = 0
    l1_entries: int = 1
    l1_offset: int = CLUSTER
    features: int = 0
    header_bytes: int = 104
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    l2_entries: list[int] | None = None
    l1: list[int] | None = None

    def build(self) -> bytes:
        header = b"QFI\xfb" + struct.pack(
            ">IQIIQIIQQIIQ",
            self.version,
            self.backing_offset,
            8 if self.backing_offset else 0,
            self.cluster_bits,
            self.size,
            self.crypt,
            self.l1_entries,
            self.l1_offset,
            4 * CLUSTER + len(self.data) * CLUSTER,
            1,
            0,
            0,
        )
        if self.version == 3:
            header += struct.pack(">QQQII", self.features, 0, 0, 4, self.header_bytes)
        for kind, content in self.extensions:
            header += struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)
        l1 = [2 * CLUSTER | 1 << 63] if self.l1 is None else self.l1
        # Guest clusters 1, 2, ... are data: cluster 0 is a hole.
        entries = [0] + [(3 + n) * CLUSTER | 1 << 63 for n in range(len(self.data))]
        l2 = entries if self.l2_entries is None else self.l2_entries
        parts = [header, struct.pack(f">{len(l1)}Q", *l1), struct.pack(f">{len(l2)}Q", *l2), *self.data]
        return b"".join(part.ljust(CLUSTER, b"\0") for part in parts)
