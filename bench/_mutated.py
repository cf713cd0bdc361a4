"""Random changes of files, which make most of them malformed."""

from __future__ import annotations

import io
import json
import random
import warnings
import zipfile
from typing import Any

__all__ = ["mutated"]

_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.5, float("nan"), float("inf")),
    *("", "../x", "/etc/passwd", "\0", "\ud800", "x" * 5000, "\x1b[2J", [], {}, [[]], [None], {"a": 1}),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one to three changes: of bytes, of chunks, or, where it is JSON, of values."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not content:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        if content[:1] in b"{[" and rng.random() < 0.6:
            content = _json_changed(content, rng)
        elif content[:2] == b"PK" and rng.random() < 0.6:
            content = _member_changed(content, rng)
        else:
            content = _bytes_changed(content, rng)
    return content


def _bytes_changed(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    at = rng.randrange(len(data))
    upto = min(len(data), at + 1 + int(len(data) * rng.random() ** 4))
    kind = rng.randrange(7)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at:upto]
    elif kind == 4:
        data[at:at] = data[at:upto]  # a chunk twice
    elif kind == 5:
        data[at:upto] = bytes(upto - at)
    else:
        data[at : at + 8] = rng.choice((2**31 - 1, 2**63 - 1, 2**64 - 1, 2**40)).to_bytes(8, "little")
    return bytes(data)


def _json_changed(content: bytes, rng: random.Random) -> bytes:
    """JSON, or lines of JSON, with a value replaced, left out or given twice."""
    lines = content.splitlines() if content.count(b"\n{") else [content]
    number = rng.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except (ValueError, RecursionError):
        return _bytes_changed(content, rng)
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        places += [(item, key) for key in keys]
        stack += [item[key] for key in keys]
    if not places:
        return _bytes_changed(content, rng)
    parent, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        other, place = rng.choice(places)
        if place in other if isinstance(other, dict) else place < len(other):
            parent[key] = json.loads(json.dumps(other[place]))
    elif kind == 2 and type(parent[key]) is int:
        parent[key] += rng.choice((-1, 1, 7, 1000))
    else:
        parent[key] = rng.choice(_ODD)
    text = json.dumps(value)
    if kind == 5:
        text = rng.choice((text.replace("{", '{"a": 1, "a": 2, ', 1), "[" * 50_000 + text, text.replace(":", ":-", 1)))
    lines[number] = text.encode()
    return b"\n".join(lines)


def _member_changed(content: bytes, rng: random.Random) -> bytes:
    """A zip archive with a change in one of its members, and checksums that are right for it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(member, archive.read(member)) for member in archive.infolist()]
    except Exception:  # it is none any more
        return _bytes_changed(content, rng)
    if not members:
        return _bytes_changed(content, rng)
    chosen = rng.randrange(len(members))
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as archive:
        warnings.simplefilter("ignore")  # about names that stand there twice
        for number, (member, data) in enumerate(members):
            kind = rng.randrange(10) if number == chosen else 9
            if kind == 0:
                continue
            name = rng.choice(("../x", "/etc/x", members[0][0].filename)) if kind == 1 else member.filename
            if kind > 1 and number == chosen:
                data = mutated(data, rng)
            archive.writestr(name, data, compress_type=member.compress_type)
    return made.getvalue()
