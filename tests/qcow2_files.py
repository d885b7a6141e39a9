# SPDX-License-Identifier: Apache-2.0
"""qcow2 files, made here: what is right in them, and each thing that may be wrong."""

import struct
import zlib

_MAGIC = b"QFI\xfb"
_COPIED = 1 << 63
_COMPRESSED = 1 << 62


def made(
    data: bytes,
    *,
    size_bytes: int | None = None,
    cluster_bits: int = 16,
    compressed: bool = False,
    version: int = 3,
    features: int = 0,
    backing: bytes = b"",
    encryption: int = 0,
) -> bytes:
    """A disk as a qcow2 file; its zero clusters are not allocated."""
    cluster = 1 << cluster_bits
    size = len(data) if size_bytes is None else size_bytes
    entries = cluster // 8
    l1_size = -(-size // (entries * cluster))
    tables = -(-len(data) // (entries * cluster))
    l1_offset = cluster
    l2_offset = l1_offset + -(-8 * l1_size // cluster) * cluster
    end = l2_offset + tables * cluster
    l1 = [_COPIED | (l2_offset + index * cluster) for index in range(tables)]
    l2, kept = [0] * (entries * tables), b""
    for index, start in enumerate(range(0, len(data), cluster)):
        block = data[start : start + cluster].ljust(cluster, b"\0")
        if not block.strip(b"\0"):
            continue
        packer = zlib.compressobj(wbits=-12)
        packed = packer.compress(block) + packer.flush()
        if compressed and len(packed) < cluster:
            where = end + len(kept)
            sectors = (where % 512 + len(packed) - 1) // 512
            l2[index] = _COMPRESSED | sectors << (62 - (cluster_bits - 8)) | where
            kept += packed
        else:
            kept += bytes(-len(kept) % cluster)
            l2[index] = _COPIED | (end + len(kept))
            kept += block
    # qemu-img reads only what has a table of reference counts, be it empty
    kept += bytes(-len(kept) % cluster)
    counts = end + len(kept)
    kept += bytes(cluster)
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        _MAGIC,
        version,
        104 if backing else 0,
        len(backing),
        cluster_bits,
        size,
        encryption,
        l1_size,
        l1_offset,
        counts,
        1,
        0,
        0,
    )
    if version > 2:
        header += struct.pack(">QQQII", features, 0, 0, 4, 104)
    head = (header.ljust(104, b"\0") + backing).ljust(cluster, b"\0")
    first = b"".join(struct.pack(">Q", each) for each in l1).ljust(l2_offset - l1_offset, b"\0")
    return head + first + b"".join(struct.pack(">Q", each) for each in l2) + kept
