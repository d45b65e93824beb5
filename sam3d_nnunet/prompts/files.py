"""Prompt files: our JSON.

{"format": "sam3d_prompts", "version": 1, "image": "case_001", "coordinates": "LPS, mm",
 "points": [{"position": [x, y, z], "label": 1}, ...]}
"""

import json
import os
from pathlib import Path
from typing import Any

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts.prompt import Prompt

FORMAT, VERSION, COORDINATES = "sam3d_prompts", 1, "LPS, mm"


def write_prompt(prompt: Prompt, path: str | Path) -> None:
    """Write clicks to a JSON file, which appears complete or not at all."""
    points = [{"position": p.tolist(), "label": int(k)} for p, k in zip(prompt.points, prompt.labels)]
    content = {
        "format": FORMAT,
        "version": VERSION,
        "image": prompt.image,
        "coordinates": COORDINATES,
        "points": points,
    }
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_prompt(path: str | Path) -> Prompt:
    """Read a file that `write_prompt` wrote.

    Raises:
        SAM3DError: the file can't be read, isn't JSON, or isn't laid out as documented above.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise SAM3DError(f"{path}, line {e.lineno}: {e.msg}; this is no JSON.") from e
    except (OSError, UnicodeDecodeError) as e:
        raise SAM3DError(f"The prompt file {path} can't be read: {e}.") from e
    except (RecursionError, ValueError) as e:  # thousands of brackets or digits
        raise SAM3DError(f"The prompt file {path} holds no usable JSON: {e}.") from e
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SAM3DError(f'{path} is no prompt file: its "format" is not "{FORMAT}".')
    if content.get("version") != VERSION or content.get("coordinates") != COORDINATES:
        raise SAM3DError(
            f"{path} has version {content.get('version')!r} and coordinates {content.get('coordinates')!r}; "
            f"this program reads version {VERSION} with {COORDINATES!r}."
        )
    image, points = content.get("image"), content.get("points")
    if not isinstance(image, str):
        raise SAM3DError(f'{path} has no text "image".')
    if not isinstance(points, list):
        raise SAM3DError(f'{path} has no list "points".')
    for i, point in enumerate(points):
        if not _is_point(point):
            raise SAM3DError(
                f'{path}: points[{i}] is {json.dumps(point)}, not like {{"position": [x, y, z], "label": 1}}.'
            )
    try:
        return Prompt([p["position"] for p in points], [p["label"] for p in points], image)
    except (SAM3DError, OverflowError) as e:
        raise SAM3DError(f"{path}: {e}") from e


def _is_point(point: Any) -> bool:
    if not isinstance(point, dict):
        return False
    position, label = point.get("position"), point.get("label")
    numbers = isinstance(position, list) and len(position) == 3 and all(type(x) in (int, float) for x in position)
    return numbers and type(label) is int
