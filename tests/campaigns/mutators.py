"""Ways to break a file: its bytes, the tree of a JSON file or a pickle, a table, and headers of images.

Each takes the content of a good file and a random generator, and returns other content.
"""

import copy
import gzip
import json
import pickle
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
from nibabel.nifti1 import header_dtype

Mutator = Callable[[bytes, Random], bytes]
RAW = {
    "@infinite@": "1e400",
    "@nan@": "NaN",
    "@minus@": "-Infinity",
    "@digits@": "9" * 5000,
    "@fraction@": "0." + "3" * 5000,
    "@lists@": "[" * 10_000 + "]" * 10_000,
    "@objects@": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "@open@": "[" * 100_000,
}
"""JSON that Python's writer does not make, by the string that stands for it in a tree."""
TWICE = "@twice@"
"""Before a key: the key that follows, once more."""
NUMBERS = (0, -1, 1, 2, 3, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400)
FRACTIONS = (0.5, -0.0, 1e-320, 1.0, 1e9, 1e308, -1e308, 1e-30)
TEXTS = ("", " ", "0", "-1", "1.5", "1e3", "true", "null", "background", "a\0b", "a\nb", "\ud83d", "\U0001f9e0", "é")
NAMES = ("../x", "/etc/passwd", "x" * 300, "x" * 100_000, ".nii.gz", "\u202eabc", "CON", "__class__", "%s%n{0}", "=1+1")
TREES = ([], {}, [[]], [0], [0, 1], [[0, 1], [2]], [None], {"a": 1}, {"": None}, {"0": {"0": [0]}}, list(range(1000)))
VALUES = (None, True, False, *NUMBERS, *FRACTIONS, *TEXTS, *NAMES, *TREES)
CELLS = (
    *("", " ", '"', '""', "'", "#", "\0", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 5000, "-0", "0x10", "1_000"),
    *("1,5", "1.5.5", "=1+1", "true", "x" * 200_000, "\U0001f9e0", "é", "\u202e", "\r", "\n", "\t", ";", ",", "٣"),
    *(str(number) for number in NUMBERS),
)


# --- bytes ---


def mutated_bytes(content: bytes, rng: Random) -> bytes:
    """Bytes flipped, cut, inserted, zeroed, repeated or removed; half of the times near the beginning."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        size = len(data)
        near = min(size, 400) if rng.random() < 0.5 else size
        place, length = rng.randrange(near + 1), rng.choice((1, 2, 4, 16, 256))
        rest = slice(place, place + length)
        kind = rng.randrange(8)
        if kind == 0 and place < size:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < size:
            data[place] = rng.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            data[place:place] = rng.randbytes(length)
        elif kind == 4:
            data[rest] = bytes(len(data[rest]))
        elif kind == 5:
            data[rest] = b"\xff" * len(data[rest])
        elif kind == 6:
            data[place:place] = data[rest] * rng.choice((1, 50))
        else:
            del data[rest]
    return bytes(data)


def within_gzip(mutate: Mutator) -> Mutator:
    """What a gzip file holds is changed, and compressed again."""

    def mutated(content: bytes, rng: Random) -> bytes:
        return gzip.compress(mutate(gzip.decompress(content), rng), 1)

    return mutated


# --- trees ---


def mutated_json(content: bytes, rng: Random) -> bytes:
    """A JSON file with other values, keys and shapes."""
    tree = mutated_tree(json.loads(content), rng, (*VALUES, *RAW))
    text = json.dumps(tree).replace(f'"{TWICE}', '"')
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode("utf-8", "surrogatepass")


def mutated_pickle(content: bytes, rng: Random) -> bytes:
    """A pickle of plain data, as `mutated_json`."""
    tree = mutated_tree(pickle.loads(content), rng, (*VALUES, float("nan"), float("inf"), (1,), b"a", 1j, {1}))
    return pickle.dumps(tree, rng.randrange(6))


def mutated_tree(tree: Any, rng: Random, values: tuple[Any, ...] = VALUES) -> Any:
    """A copy of lists and dictionaries with up to three changes."""
    root = {"": copy.deepcopy(tree)}

    def other() -> Any:
        return copy.deepcopy(rng.choice(values))  # which the next change may change

    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key = rng.choice(list(_places(root)))
        value = holder[key]
        kind = rng.randrange(12)
        if kind == 0 and holder is not root:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict) and holder is not root:
            holder[_key(other(), rng)] = holder.pop(key)
        elif kind == 2 and isinstance(holder, dict) and holder is not root:
            holder[f"{TWICE}{key}"] = other()
        elif kind == 3:
            holder[key] = [value]
        elif kind == 4:
            source, place = rng.choice(list(_places(root)))
            holder[key] = copy.deepcopy(source[place])
        elif kind == 5 and isinstance(value, dict):
            value[_key(other(), rng)] = other()
        elif kind == 5 and isinstance(value, list):
            value.insert(rng.randrange(len(value) + 1), other())
        elif kind == 6 and isinstance(value, list):
            holder[key] = value * rng.choice((2, 1000))
        elif kind == 7 and isinstance(value, int | float):
            holder[key] = rng.choice((-value, value * 1000, value + 1, 0.3, str(value), [value]))
        elif kind == 7 and isinstance(value, str):
            holder[key] = rng.choice((value[:1], value * 100, value.upper(), f" {value} ", f"{value}\0", [value]))
        else:
            holder[key] = other()
    return root[""]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each list or dictionary of a tree with each of its keys."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        yield tree, key
        if isinstance(value, list | dict):
            yield from _places(value)


def _key(value: Any, rng: Random) -> str:
    return value if isinstance(value, str) else str(rng.randrange(20))


# --- tables ---


def mutated_table(content: bytes, rng: Random) -> bytes:
    """A CSV file with other cells, rows and columns."""
    text = content.decode()
    separator = next((s for s in ",\t;" if s in text), ",")
    rows = [line.split(separator) for line in text.splitlines()]
    for _ in range(rng.choice((1, 1, 2, 5))):
        row = rng.randrange(len(rows))
        cells = rows[row]
        column = rng.randrange(len(cells)) if cells else 0
        kind = rng.randrange(8)
        if kind == 0 and cells:
            del cells[column]
        elif kind == 1:
            cells.insert(column, rng.choice(CELLS))
        elif kind == 2:
            rows.insert(row, list(rng.choice(rows)))
        elif kind == 3 and len(rows) > 1:
            del rows[row]
        elif kind == 4 and cells:
            rows[0][column % max(1, len(rows[0])) :] = rng.choices(cells + [rng.choice(CELLS)], k=2)
        elif kind == 5:
            for other in rows:
                other[column : column + 1] = []
        elif cells:
            cells[column] = rng.choice(CELLS)
    end = rng.choice(("\n", "\n", "\r\n", "\r", "\0"))
    return end.join(separator.join(cells) for cells in rows).encode(
        rng.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig"))
    )


# --- headers of images ---

SHORTS = (0, -1, 1, 2, 3, 4, 7, 8, 16, 64, 128, 256, 512, 768, 1024, 1536, 2048, 2304, 30_000, 32_767)
LENGTHS = (0.0, -1.0, 1e-38, 1e38, np.nan, np.inf, -np.inf, 0.5, 1e-6, 1e6)


def mutated_nifti(content: bytes, rng: Random) -> bytes:
    """A NIfTI file, not compressed, with one to three other fields in its header."""
    header = np.frombuffer(content[:348], header_dtype).copy()
    for _ in range(rng.choice((1, 1, 2, 3))):
        field = header[rng.choice(header_dtype.names)]
        places = field.reshape(-1)
        place = rng.randrange(len(places))
        if field.dtype.kind == "S":
            places[place] = rng.choice((b"", b"n+1", b"ni1", b"\xff" * 10))
        elif field.dtype.kind == "f":
            places[place] = rng.choice(LENGTHS)
        else:
            limits = np.iinfo(field.dtype)
            places[place] = rng.choice([v for v in (*SHORTS, 2**31 - 1) if limits.min <= v <= limits.max])
    return header.tobytes() + content[348:]


def mutated_header_text(content: bytes, rng: Random) -> bytes:
    """A file with a header in text, such as NRRD or MetaImage, with other words and numbers in it."""
    end = min((place for end in (b"\n\n", b"LOCAL\n") if (place := content.find(end)) > 0), default=2000)
    words = list(re.finditer(rb"[^\s,:=()]+", content[:end]))
    for word in sorted(rng.sample(words, min(len(words), rng.choice((1, 1, 2)))), key=lambda w: -w.start()):
        new = rng.choice([cell for cell in CELLS if len(cell) < 10_000] + ["raw", "gzip", "double", "short", "LIST"])
        content = content[: word.start()] + new.encode() + content[word.end() :]
    return content


def mutated_png(content: bytes, rng: Random) -> bytes:
    """A PNG file with another chunk, whose checksum fits."""
    place, chunks = 8, []
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    number = 0 if rng.random() < 0.6 else rng.randrange(len(chunks))
    name, body = chunks[number]
    if number == 0 and rng.random() < 0.7:
        values = list(struct.unpack(">IIBBBBB", body))
        field = rng.randrange(7)
        values[field] = rng.choice((0, 1, 3, 16, 255) if field > 1 else (0, 1, 60_000, 2**31 - 1, 2**32 - 1))
        body = struct.pack(">IIBBBBB", *values)
    else:
        body = mutated_bytes(body, rng)
    chunks[number] = (name, body)
    parts = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return content[:8] + b"".join(parts)


def mutated_tiff(content: bytes, rng: Random) -> bytes:
    """A TIFF file, little-endian, with other entries in its directories."""
    data, place, entries = bytearray(content), struct.unpack_from("<I", content, 4)[0], []
    while 0 < place < len(data):
        (count,) = struct.unpack_from("<H", data, place)
        entries += [place + 2 + 12 * n for n in range(count)]
        (place,) = struct.unpack_from("<I", data, place + 2 + 12 * count)
    for _ in range(rng.choice((1, 1, 2))):
        entry = rng.choice(entries)
        offset, form, values = rng.choice(((0, "<H", 65_536), (2, "<H", 20), (4, "<I", 2**32), (8, "<I", 2**32)))
        value = rng.choice((0, 1, 2, values - 1, values // 2, rng.randrange(values)))
        struct.pack_into(form, data, entry + offset, value)
    return bytes(data)
