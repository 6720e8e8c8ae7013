"""Compressed blocks of ROOT files: unpacked to the size that their header states, and no further.

uproot unpacks a block whatever its size and compares the sizes afterwards, so that a block of 16 MB could take 16 GB.
"""

import lzma
import zlib

__all__ = ["bound_blocks"]


def bound_blocks(uproot) -> None:
    """Have uproot refuse blocks that are larger than they say, for all its users in this process. (LZ4 blocks are
    bounded anyway.)

    Raises:
        ImportError: if this uproot unpacks blocks in another way.
    """
    bounded = {"ZLIB": _inflate, "LZMA": _unpack_lzma, "ZSTD": _unpack_zstd}
    for name, unpack in bounded.items():
        try:
            decompressor = getattr(uproot.compression, f"_decompress_{name}")
        except AttributeError as error:
            raise ImportError(
                f"uproot {uproot.__version__} is not known here ({error}): install uproot 5.7."
            ) from error
        decompressor.decompress = unpack


def _inflate(data, uncompressed_bytes: int) -> bytes:
    return _unpack(zlib.decompressobj(), data, uncompressed_bytes)


def _unpack_lzma(data, uncompressed_bytes: int) -> bytes:
    return _unpack(lzma.LZMADecompressor(), data, uncompressed_bytes)


def _unpack(decompressor, data, size: int) -> bytes:
    unpacked = decompressor.decompress(data, size + 1)  # one more, and the checksum at the end is verified
    if not decompressor.eof:
        raise ValueError(f"a block is cut, or larger than the {size} bytes that its header states")
    return unpacked


def _unpack_zstd(data, uncompressed_bytes: int) -> memoryview:
    import cramjam  # uproot needs it, too

    unpacked = bytearray(uncompressed_bytes)
    return memoryview(unpacked)[: cramjam.zstd.decompress_into(data, unpacked)]
