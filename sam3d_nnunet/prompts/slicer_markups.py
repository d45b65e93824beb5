"""Markups of 3D Slicer (.mrk.json): point lists, in which each point is a click."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import brief, read_json
from sam3d_nnunet.prompts.labels import LabelReader
from sam3d_nnunet.prompts.prompt import TO_LPS, Prompt, to_position

# Slicer refuses files without a schema of this form.
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
# LPS if the file names no system: "default" of coordinateSystem in Slicer's markups-schema-v1.0.3.json, and the same in
# its reader, vtkMRMLMarkupsJsonStorageNode.cxx.
DEFAULT_SYSTEM = "LPS"
LABEL_FORMAT = "%N-%d"  # Slicer's default for new points: name of the list, running number


def to_markups(prompt: Prompt, coordinate_system: str = "LPS") -> str:
    """Text of a file that holds these clicks as one point list.

    Args:
        prompt: the clicks.
        coordinate_system: "LPS" or "RAS", that of the positions in the file.
    """
    control_points = [
        {
            "id": str(i + 1),
            "label": f"label={label}",
            "description": "",
            "position": position.tolist(),
            "positionStatus": "defined",
        }
        for i, (position, label) in enumerate(zip(prompt.points * TO_LPS[coordinate_system], prompt.labels))
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": coordinate_system,
        "coordinateUnits": "mm",
        "controlPoints": control_points,
    }
    return json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=1) + "\n"


def read_markups(path: Path, file_name: str, image: str, class_names: dict[str, int] | None = None) -> Prompt:
    """Clicks in all point lists of a file.

    Args:
        path: the file.
        file_name: its name without the ending.
        image: name of the image, which such files don't hold.
        class_names: labels of the model by name.

    Raises:
        SAM3DError: the file can't be read, holds other markups than point lists, or has a label that is unknown.
    """
    content = read_json(path)
    lists = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(lists, list):
        raise SAM3DError(f'{path} holds no markups of 3D Slicer: it has no list "markups".')
    positions, labels, label_reader = [], [], LabelReader(class_names, image, file_name)
    for i, markup in enumerate(lists):
        where = f"{path}: markups[{i}]"
        signs = _signs(markup, where)
        for j, point in enumerate(markup.get("controlPoints", [])):
            # without a status, a point is defined; points that are not placed yet have no position
            if isinstance(point, dict) and point.get("positionStatus", "defined") != "defined":
                continue
            positions.append(signs * _position(point, f"{where}.controlPoints[{j}]"))
            labels.append(_label(point, markup, label_reader, f"{where}.controlPoints[{j}]"))
    return Prompt(positions, labels, image, tuple(label_reader.notes()))


def _signs(markup: Any, where: str) -> tuple[int, int, int]:
    """Factors from the positions of a list to LPS. Anything but a point list in millimetres is refused."""
    if not isinstance(markup, dict) or markup.get("type") != "Fiducial":
        kind = brief(markup.get("type")) if isinstance(markup, dict) else brief(markup)
        raise SAM3DError(
            f"{where} has the type {kind}; only point lists ('Fiducial') are clicks. Save the points alone."
        )
    units = markup.get("coordinateUnits", "mm")
    if units != "mm" and not (isinstance(units, list) and units[:2] == ["mm", "UCUM"]):
        raise SAM3DError(f"{where} has the coordinateUnits {brief(units)}. Save it in millimetres ('mm').")
    if not isinstance(markup.get("controlPoints", []), list):
        raise SAM3DError(f'{where} has "controlPoints" that are not a list.')
    system = markup.get("coordinateSystem", DEFAULT_SYSTEM)
    name = str(system).strip().upper() if type(system) in (int, str) else ""
    if name not in TO_LPS:
        raise SAM3DError(f"{where} has the coordinateSystem {brief(system)}; it must be LPS (or 1) or RAS (or 0).")
    return TO_LPS[name]


def _position(point: Any, where: str) -> np.ndarray:
    position = to_position(point.get("position")) if isinstance(point, dict) else None
    if position is None:
        found = brief(point.get("position")) if isinstance(point, dict) else brief(point)
        raise SAM3DError(f"{where} has the position {found}, not three finite numbers.")
    return np.array(position)


def _label(point: dict, markup: dict, label_reader: LabelReader, where: str) -> int:
    """The label in the description, or else in the name of the point or of its list."""
    texts = {key: _text(point.get(key)) for key in ("description", "label")}
    label_format = _text(markup.get("labelFormat", LABEL_FORMAT))
    if not texts["description"] and texts["label"].isdecimal() and label_format == "%d":
        raise SAM3DError(
            f"{where} has the label {brief(texts['label'])}, a class or a running number: the list's labelFormat is "
            f"{label_format}. Write the class into the description."
        )
    return label_reader.read(texts, where, _text(markup.get("name")))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else brief(value)  # 2 means "2"
