"""Our JSON.

{"format": "sam3d_prompts", "version": 1, "image": "case_001", "coordinates": "LPS, mm",
 "points": [{"position": [x, y, z], "label": 1}, ...]}
"""

import json
from pathlib import Path
from typing import Any

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import brief, read_json
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.prompts.values import MAX_LABEL, to_position

FORMAT, VERSION, COORDINATES = "sam3d_prompts", 1, "LPS, mm"


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


def read_sam3d_json(path: Path) -> Prompt:
    """Clicks in our JSON.

    Raises:
        SAM3DError: the file can't be read, isn't JSON, or isn't laid out as above.
    """
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
            f'{path} is no prompt file: its "format" is not "{FORMAT}". (Markups of 3D Slicer end in .mrk.json.)'
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
