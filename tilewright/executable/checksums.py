"""Checksums of the files of an executable: a SHA-256 of a whole file, and an XXH3 of each block of it."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from pathlib import Path

from tilewright.tvm_compat import usable_cores

__all__ = ["read_blocks", "sha256", "sha256_of", "xxh3"]

#: The bytes of a file that are read at a time: they stay in a core's cache until they are hashed.
_CHUNK = 256 << 10
#: The bytes that have a checksum of their own, so that several threads read and hash a file.
_BLOCK = 16 << 20
#: The most threads that read a file: with more, memory is the limit.
_MOST_READERS = 4


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
    return digest.hexdigest()


def sha256_of(content: mmap.mmap, size: int) -> str:
    """The SHA-256 of the first ``size`` bytes of memory."""
    with memoryview(content) as view:
        return hashlib.sha256(view[:size]).hexdigest()


def xxh3(path: Path) -> list[str]:
    """The XXH3 of each block of a file."""
    import xxhash

    with path.open("rb", buffering=0) as file:
        return [xxhash.xxh3_128_hexdigest(block) for block in iter(lambda: file.read(_BLOCK), b"")]


def read_blocks(descriptor: int, content: mmap.mmap, size: int) -> list[str]:
    """Read a file into memory. Several threads do, and hash what they read while it is in their caches.

    Returns:
        the XXH3 of each block.

    Raises:
        OSError, ValueError: it cannot be read, or ends too early.
    """
    import xxhash

    blocks = range(0, size, _BLOCK)
    found, failed = [""] * len(blocks), list[Exception]()
    turns = iter(enumerate(blocks))  # each thread takes the next one; an iterator of C code is safe for that

    def read() -> None:
        with memoryview(content) as view:
            try:
                for number, start in turns:
                    digest, at, end = xxhash.xxh3_128(), start, min(start + _BLOCK, size)
                    while at < end:
                        count = os.preadv(descriptor, [view[at : min(at + _CHUNK, end)]], at)
                        if not count:
                            raise ValueError("it ends too early")
                        digest.update(view[at : at + count])
                        at += count
                    found[number] = digest.hexdigest()
            except (OSError, ValueError) as exc:
                failed.append(exc)

    readers = [threading.Thread(target=read) for _ in range(min(_MOST_READERS, usable_cores(), len(blocks)) - 1)]
    for reader in readers:
        reader.start()
    read()
    for reader in readers:
        reader.join()
    if failed:
        raise failed[0]
    return found
