"""Prompt files, one format for each ending, and checks of clicks; docs/reference/formats.md describes the formats.

CASE.json      our JSON, read and written here
CASE.mrk.json  point lists of 3D Slicer          slicer_markups.py
CASE.csv       a table, also CASE.tsv; and CASE.fcsv, older point lists of 3D Slicer     csv_points.py, table.py

Our JSON: {"format": "sam3d_prompts", "version": 1, "image": "case_001", "coordinates": "LPS, mm",
           "points": [{"position": [x, y, z], "label": 1}, ...]}
"""

import json
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import brief, composed, read_json, same_name, write_text
from sam3d_nnunet.prompts.csv_points import images_in_csv, read_csv, to_csv
from sam3d_nnunet.prompts.prompt import MAX_LABEL, Prompt, to_position
from sam3d_nnunet.prompts.slicer_markups import read_markups, to_markups

JSON, MARKUPS, CSV, TSV, FCSV = ".json", ".mrk.json", ".csv", ".tsv", ".fcsv"
TABLES = (CSV, TSV, FCSV)
ENDINGS = (MARKUPS, JSON, *TABLES)  # the longer one first: both end in .json
WRITTEN = (MARKUPS, JSON, CSV)
LARGEST = 16 * 2**20
"""Bytes of a prompt file: some hundred thousand clicks. Larger ones are something else, and would fill the memory."""
FORMAT, VERSION, COORDINATES = "sam3d_prompts", 1, "LPS, mm"


def read_prompt(
    path: str | Path,
    image_geometry: ImageGeometry | None = None,
    image_name: str | None = None,
    class_names: dict[str, int] | None = None,
) -> Prompt:
    """Read the clicks on one image. A file without clicks is fine.

    Args:
        path: file in one of the formats.
        image_geometry: of the image; needed for tables of voxel indices.
        image_name: the image that the clicks must be on. None: the image that the file names, else the file's name
            without its ending.
        class_names: labels of the model by name (`labels` of dataset.json), for files that use names.

    Raises:
        SAM3DError: the file can't be read, doesn't follow its format, or belongs to another image.
    """
    path = Path(path)
    ending = _ending(path)
    _refuse_large(path)
    file_name = path.name[: -len(ending)]
    if ending == MARKUPS:
        return _noted(read_markups(path, file_name, file_name if image_name is None else image_name, class_names), path)
    if ending in TABLES:
        return _noted(read_csv(path, file_name, image_geometry, image_name, class_names), path)
    prompt = _read_json_prompt(path)
    if image_name is None:
        return prompt
    if not same_name(image_name, prompt.image):
        raise SAM3DError(
            f'{path} holds clicks on the image "{prompt.image}", not on "{image_name}". '
            'Give the file of this image, or correct its "image".'
        )
    return replace(prompt, image=image_name)


def write_prompt(prompt: Prompt, path: str | Path) -> None:
    """Write clicks to a file in the format of its ending, which appears complete or not at all.

    Raises:
        SAM3DError: the ending is none of .mrk.json, .json and .csv, or the image's name can't be encoded as UTF-8.
    """
    path = Path(path)
    text = {JSON: to_json, MARKUPS: to_markups, CSV: to_csv}[_ending(path, WRITTEN)](prompt)
    try:
        prompt.image.encode()  # JSON has escapes for halves of characters, but no reader takes them
    except UnicodeEncodeError as e:
        raise SAM3DError(
            f"The name of the image {prompt.image!a} can't be written to {path}: it is not valid Unicode."
        ) from e
    write_text(path, text)


def to_json(prompt: Prompt) -> str:
    """Text of a file that holds these clicks."""
    points = [{"position": p.tolist(), "label": int(k)} for p, k in zip(prompt.points, prompt.labels)]
    content = {
        "format": FORMAT,
        "version": VERSION,
        "image": prompt.image,
        "coordinates": COORDINATES,
        "points": points,
    }
    return json.dumps(content, indent=1) + "\n"


def find_prompts(path: str | Path, cases: Collection[str]) -> dict[str, Path]:
    """The prompt file of each case.

    Args:
        path: a folder with one file for each case, named like the case; other files in it are ignored. Or one file,
            for a single case or, as a table with a column `image`, for all of them.
        cases: names of the cases.

    Raises:
        SAM3DError: there is nothing at `path`, a case has no file or several, or one file is given for several cases.
    """
    path = Path(path)
    if path.is_dir():
        return _find_in_folder(path, cases)
    if not path.exists():
        raise SAM3DError(f"There is no prompt file or folder {path}.")
    _refuse_large(path)
    images = images_in_csv(path) if _ending(path) in TABLES else None
    if images:
        there = set(map(composed, images))
        _refuse_missing([case for case in cases if composed(case) not in there], f"The column image of {path}")
    elif len(cases) != 1:
        raise SAM3DError(
            f"{path} is a single prompt file, but there are {len(cases)} images. Give a folder with one file for each, "
            "or a table (.csv) with a column image."
        )
    return {case: path for case in cases}


def files_in_folder(folder: Path, cases: Collection[str]) -> dict[str, list[Path]]:
    """All prompt files of each case in a folder; their endings may be in upper case."""
    found = {case: [] for case in cases}
    wanted = {composed(case): case for case in cases}
    for name in os.listdir(folder):
        ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
        case = wanted.get(composed(name[: -len(ending)])) if ending else None
        if case is not None and (folder / name).is_file():
            found[case].append(folder / name)
    return {case: sorted(files, key=lambda file: (ENDINGS.index(_ending(file)), file)) for case, files in found.items()}


def _find_in_folder(folder: Path, cases: Collection[str]) -> dict[str, Path]:
    found = files_in_folder(folder, cases)
    for case, files in found.items():
        if len(files) > 1:
            names = " and ".join(f.name for f in files)
            raise SAM3DError(f"{folder} holds {len(files)} prompt files for the case {case}: {names}. Keep one.")
    names = " or ".join(f"CASE{e}" for e in ENDINGS)
    _refuse_missing([case for case, files in found.items() if not files], f"{folder} (as {names})")
    return {case: files[0] for case, files in found.items()}


def _refuse_missing(cases: list[str], where: str) -> None:
    if cases:
        raise SAM3DError(f"{where} has no clicks for {len(cases)} case(s): {', '.join(cases)}. Add them.")


def _ending(path: Path, known: Collection[str] = ENDINGS) -> str:
    for ending in known:
        if path.name.lower().endswith(ending):
            return ending
    raise SAM3DError(f"{path} is not a prompt file: its name must end in one of {', '.join(known)}.")


def _noted(prompt: Prompt, path: Path) -> Prompt:
    """The same clicks with all notes in one that names the file."""
    return replace(prompt, notes=(f"{path.name}: {', '.join(prompt.notes)}",) if prompt.notes else ())


def _refuse_large(path: Path) -> None:
    """Refuse a file whose clicks nobody has made by hand. Whether it is there, its reader says."""
    size = path.stat().st_size if path.is_file() else 0
    if size > LARGEST:
        raise SAM3DError(
            f"{path} has {size / 2**20:.0f} MB; prompt files may have {LARGEST / 2**20:.0f} MB, some hundred thousand "
            "clicks. Split it by image, or give masks as segmentations to refine."
        )


def _read_json_prompt(path: Path) -> Prompt:
    """Clicks in our JSON."""
    content = read_json(path)
    _check_head(content, path)
    positions, labels = [], []
    for i, point in enumerate(content["points"]):
        position, label = _position_and_label(point)
        if position is None or label is None:
            raise SAM3DError(
                f'{path}: points[{i}] is {brief(point)}, not like {{"position": [x, y, z], "label": 1}} '
                "with finite millimetres and a whole label from 0 (background) on."
            )
        positions.append(position)
        labels.append(label)
    return Prompt(positions, labels, content["image"])


def _check_head(content: Any, path: Path) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SAM3DError(
            f'{path} is not a prompt file: its "format" is not "{FORMAT}". (Markups of 3D Slicer end in .mrk.json.)'
        )
    if content.get("version") != VERSION or content.get("coordinates") != COORDINATES:
        raise SAM3DError(
            f"{path} has version {brief(content.get('version'))} and coordinates {brief(content.get('coordinates'))}; "
            f"this program reads version {VERSION} with {COORDINATES!r}."
        )
    if not isinstance(content.get("image"), str):
        raise SAM3DError(f'{path} has no text "image"; name there the image that the clicks are on.')
    if not isinstance(content.get("points"), list):
        raise SAM3DError(f'{path} has no list "points".')


def _position_and_label(point: Any) -> tuple[list[float] | None, int | None]:
    if not isinstance(point, dict):
        return None, None
    label = point.get("label")
    known = type(label) is int and 0 <= label <= MAX_LABEL  # True is an int, too
    return to_position(point.get("position")), label if known else None


# --- checks: errors name the click and say where it is ---


def check_prompt(prompt: Prompt, geometry: ImageGeometry, shape: tuple[int, ...], labels: Collection[int]) -> None:
    """Refuse clicks that the model can't use on this image.

    Args:
        prompt: the clicks.
        geometry: of the image.
        shape: (D, H, W) of the image's array.
        labels: labels of clicks that the model knows, with 0 if it takes background clicks.

    Raises:
        SAM3DError: there is no click, a click has a label that is not in `labels`, or a click is outside the image. The
            image ends half a voxel beyond the centres of its outermost voxels.
    """
    if not len(prompt.points):
        raise SAM3DError(f"There are no clicks on {prompt.image}. Give at least one, or predict without prompts.")
    unknown = ~np.isin(prompt.labels, list(labels))
    if unknown.any():
        first = int(np.argmax(unknown))
        known = ", ".join(map(str, sorted(labels)))
        raise SAM3DError(
            f"{_name(prompt, first)} has the label {prompt.labels[first]}, which the model doesn't know. "
            f"It knows {known}."
        )
    outside = ~_inside(geometry.to_voxels(prompt.points), Box.of_shape(shape))
    if outside.any():
        first = int(np.argmax(outside))
        raise SAM3DError(
            f"{_place(prompt, first, geometry)} lies outside the image of {_size(geometry, shape)} voxels. "
            "Check that the clicks are on this image, and that they are LPS millimetres or its voxels."
        )


def check_crop(prompt: Prompt, geometry: ImageGeometry, grid: PreprocessedGrid) -> None:
    """Refuse clicks on the empty border that nnU-Net crops away: the model sees nothing there.

    Args:
        prompt: clicks inside the image (see `check_prompt`).
        geometry: of the image.
        grid: of the preprocessed image.

    Raises:
        SAM3DError: a click lies more than half a voxel outside the crop.
    """
    outside = ~_inside(geometry.to_voxels(prompt.points), grid.crop)
    if outside.any():
        first = int(np.argmax(outside))
        raise SAM3DError(
            f"{_place(prompt, first, geometry)} lies inside the image, but on its empty border (all voxels 0), which "
            "is cropped away before prediction. Move the click onto what the image shows."
        )


def _inside(voxels: np.ndarray, box: Box) -> np.ndarray:
    """(N,) whether indices are in a box of voxels, both faces included, up to the rounding of the affine."""
    tolerance = 0.5 + 1e-6
    return ((voxels >= np.array(box.start) - tolerance) & (voxels <= np.array(box.stop) - 1 + tolerance)).all(axis=1)


def _name(prompt: Prompt, click: int) -> str:
    return f"Click {click + 1} of {len(prompt.points)} on {prompt.image}"


def _place(prompt: Prompt, click: int, geometry: ImageGeometry) -> str:
    """A click with its place in the world and in the image, for errors. Axes are in the order that viewers show."""
    world = prompt.points[click]
    if geometry.file_affine is not None:
        axes, voxel = "i, j, k", geometry.to_file_index(world[None])[0]
    else:
        axes, voxel = "w, h, d", geometry.to_voxels(world[None])[0][::-1]
    return f"{_name(prompt, click)}, at (x, y, z) = {_numbers(world)} mm, is at voxel ({axes}) = {_numbers(voxel)} and"


def _numbers(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def _size(geometry: ImageGeometry, shape: tuple[int, ...]) -> str:
    """Voxels of the image along the axes that `_place` uses."""
    size = np.array(shape)[::-1]
    if geometry.file_affine is not None:
        exchange = np.linalg.solve(geometry.file_affine[:3, :3], geometry.affine[:3, :3])
        size = np.abs(np.rint(exchange)).astype(int) @ np.array(shape)
    return " x ".join(map(str, size))
