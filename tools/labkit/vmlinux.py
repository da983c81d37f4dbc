"""The uncompressed kernel inside a bzImage.

Under software emulation the kernel's own decompressor costs seconds at every start; done here, it
costs one second once.  Debian's kernels have the PVH entry, by which QEMU starts a bare ELF image.
"""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

from labkit.failure import LabError

_ELF = b"\x7fELF"
_XZ = b"\xfd7zXZ\x00"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LZ4 = b"\x02\x21\x4c\x18"
"""Of its legacy format, which the kernel's build uses."""


def extract(image: Path, to: Path) -> None:
    """Write the ELF kernel in image to the file to.

    The payload starts at the first magic number that decompresses to ELF; what follows it in the
    file (relocations, the image's own tail) is not part of the stream.
    """
    octets = image.read_bytes()
    for magic, decompress in ((_XZ, _unxz), (_ZSTD, _unzstd), (_LZ4, _unlz4)):
        start = octets.find(magic)
        while start >= 0:
            kernel = decompress(octets[start:])
            if kernel.startswith(_ELF):
                part = to.with_name(to.name + ".part")
                part.write_bytes(kernel)
                part.rename(to)
                return
            start = octets.find(magic, start + 1)
    raise LabError(f"{image.name} holds no kernel packed with xz, zstd or lz4")


def _unxz(stream: bytes) -> bytes:
    try:
        return lzma.LZMADecompressor().decompress(stream)
    except lzma.LZMAError:
        return b""


def _unzstd(stream: bytes) -> bytes:
    return _unpacked("zstd", stream)


def _unlz4(stream: bytes) -> bytes:
    return _unpacked("lz4", stream)


def _unpacked(program: str, stream: bytes) -> bytes:
    # The program writes what the stream holds, then complains about the bytes behind it.
    return subprocess.run([program, "-dcq"], input=stream, capture_output=True, check=False).stdout
