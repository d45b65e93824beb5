"""Deterministic weights, images and clicks for the golden vectors in this folder.

Every tensor is a function of (seed, name, shape) alone, so a checkpoint laid out like the released
3DSAM-adapter one can be rebuilt anywhere without shipping its 400 MB. Needs NumPy only.
"""

import json
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def tensor(name: str, shape, seed: int) -> np.ndarray:
    """float32 array for the parameter `name`; the scale follows from the kind of parameter."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    a = np.asarray(rng.standard_normal(tuple(shape), dtype=np.float32))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "lr":  # gain on the relative positions
        return np.asarray(np.float32(1) + np.float32(0.1) * a)
    if leaf in ("rel_pos_h", "rel_pos_w", "rel_pos_d", "pos_embed", "depth_embed", "global_query"):
        return np.float32(0.1) * a
    if leaf == "positional_encoding_gaussian_matrix":
        return a
    if leaf == "weight" and a.ndim == 1:  # normalisation layers
        return np.float32(1) + np.float32(0.1) * a
    if a.ndim <= 1:  # biases
        return np.float32(0.05) * a
    fan_in = int(np.prod(a.shape[1:]))
    return a / np.float32(np.sqrt(fan_in))


def state_dict(part: str, layout: dict, seed: int) -> dict:
    """NumPy state dict of one part ('encoder', 'decoder' or 'prompt3') of a checkpoint layout."""
    return {k: tensor(f"{part}/{k}", s, seed) for k, s in layout.items()}


def image(size: int, seed: int) -> np.ndarray:
    """(size, size, size) float32 volume, axes (d, h, w): a smooth field plus noise, about unit variance."""
    rng = np.random.default_rng([seed, 7])
    g = np.linspace(0, 2 * np.pi, size, endpoint=False, dtype=np.float32)
    f = rng.integers(1, 6, size=(4, 3))
    p = rng.uniform(0, 2 * np.pi, size=(4, 3)).astype(np.float32)
    v = np.zeros((size,) * 3, np.float32)
    for (fd, fh, fw), (pd, ph, pw) in zip(f, p):
        v += np.sin(fd * g + pd)[:, None, None] * np.sin(fh * g + ph)[None, :, None] * np.sin(fw * g + pw)
    return (v + np.float32(0.5) * rng.standard_normal(v.shape, dtype=np.float32)).astype(np.float32)


def clicks(n: int, size: int, seed: int) -> np.ndarray:
    """(n, 3) integer voxel coordinates (d, h, w) inside a volume of `size` voxels a side."""
    return np.random.default_rng([seed, 11, n]).integers(0, size, size=(n, 3))


def layout() -> dict:
    """Parameter names and shapes of the released checkpoint: {'encoder': {name: shape}, ...}."""
    return json.loads((HERE / "released_layout.json").read_text())
