"""What to predict: the images of each case, and its clicks from prompt files or a command."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import listing
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prompts.files import find_prompts, read_prompt
from sam3d_nnunet.prompts.prompt import Prompt, label_forms, to_label

RESERVED = {"dataset", "plans"}  # written beside predictions for nnU-Net, and so would be the clicks of such cases


def find_cases(path: str | Path, model: TrainedModel) -> dict[str, list[Path]]:
    """Files of each case, one for each channel of the model; whether they all exist is not looked at.

    Args:
        path: a folder with CASE_0000, CASE_0001, ... (one number for each channel) and the data set's file ending. Or
            the first channel of one image, which may have any name where the model has one channel.
        model: that shall predict them.

    Raises:
        SAM3DError: there is no such image.
    """
    path = Path(path)
    if path.is_dir():
        cases = _in_folder(path, model)
    elif path.is_file():
        cases = _single(path, model)
    else:
        raise SAM3DError(f"There is no image file or folder {path}.")
    for case in sorted(RESERVED & cases.keys()):
        raise SAM3DError(f"{path} holds a case {case!r}: {case}.json would be two files at once. Rename the image.")
    return cases


def _in_folder(folder: Path, model: TrainedModel) -> dict[str, list[Path]]:
    ending = model.file_ending
    # macOS puts ._CASE_0000 beside files on foreign disks
    names = sorted(f.name for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    numbered = re.compile(rf"(.+)_[0-9]{{4}}{re.escape(ending)}")
    cases = dict.fromkeys(match[1] for name in names if (match := numbered.fullmatch(name)))
    if not cases:
        there = listing(names, 5) or "no file"
        raise SAM3DError(f"{folder} holds no image CASE_0000{ending} (the model's file ending), but {there}.")
    for name in names:
        if numbered.fullmatch(name) and int(name.removesuffix(ending)[-4:]) >= model.channels:
            raise SAM3DError(f"{folder / name} is surplus: the model's images have {model.channels} channel(s).")
    return {case: [folder / f"{case}_{channel:04}{ending}" for channel in range(model.channels)] for case in cases}


def _single(file: Path, model: TrainedModel) -> dict[str, list[Path]]:
    endings = {model.file_ending, *model.plans.image_reader_writer_class.supported_file_endings}
    ending = max((e for e in endings if file.name.lower().endswith(e.lower())), key=len, default=None)
    if ending is None:
        raise SAM3DError(f"The model's reader can't read {file}: it reads {', '.join(sorted(endings))}.")
    stem, ending = file.name[: -len(ending)], file.name[-len(ending) :]
    numbered = re.fullmatch(r"(.+)_0000", stem)
    if model.channels == 1:
        return {numbered[1] if numbered else stem: [file]}
    if not numbered:
        raise SAM3DError(f"The model has {model.channels} channels: give the first one, CASE_0000{ending}, not {file}.")
    return {numbered[1]: [file.with_name(f"{numbered[1]}_{c:04}{ending}") for c in range(model.channels)]}


@dataclass(frozen=True)
class TypedClick:
    """A click on the one image of a command.

    Attributes:
        position: (x, y, z) in the world, or voxel (i, j, k) of the image file.
        label: of the click.
        in_world: which of both.
    """

    position: tuple[float, float, float]
    label: int
    in_world: bool

    @classmethod
    def parse(cls, text: str, in_world: bool, class_names: dict[str, int]) -> "TypedClick":
        """From three numbers with commas between them, and perhaps `=label` (a number or the name of a class).

        Raises:
            SAM3DError: the text is nothing like that.
        """
        numbers, _, name = text.partition("=")
        try:
            position = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            position = ()
        axes = "x,y,z" if in_world else "i,j,k"
        if len(position) != 3 or not all(map(math.isfinite, position)):
            raise SAM3DError(f"The click {text!r} is not like {axes} or {axes}=label, with three finite numbers.")
        label = to_label(name, class_names) if name else 1
        if label is None or text.endswith("="):
            raise SAM3DError(f"The click {text!r} has no usable label. {label_forms(class_names)}")
        return cls(position, label, in_world)


@dataclass(frozen=True)
class ClickSource:
    """The clicks on each case, from files or typed or both.

    Attributes:
        class_names: labels of the model by name, for files that use names.
        files: prompt file or folder of them; None if there is none.
        typed: further clicks; only for a single case.
    """

    class_names: dict[str, int]
    files: Path | None = None
    typed: Sequence[TypedClick] = field(default=())

    def __bool__(self) -> bool:
        return self.files is not None or bool(self.typed)

    def check(self, cases: Sequence[str]) -> None:
        """Refuse what can't be right for these cases before any is looked at.

        Raises:
            SAM3DError: there is no such file, it is not for these cases, or clicks are typed for several cases.
        """
        if self.typed and len(cases) != 1:
            raise SAM3DError(f"Typed clicks are for one image, but there are {len(cases)}. Write prompt files instead.")
        if self.files is not None and not self.files.is_dir():
            find_prompts(self.files, cases)

    def file(self, case: str) -> Path | None:
        """The prompt file of a case; None if clicks are only typed.

        Raises:
            SAM3DError: it is missing, or there are several.
        """
        return None if self.files is None else find_prompts(self.files, [case])[case]

    def prompt(self, case: str, geometry: ImageGeometry) -> Prompt | None:
        """All clicks on a case; None without any source.

        Raises:
            SAM3DError: the case's prompt file is missing or unusable.
        """
        if not self:
            return None
        points, labels = np.zeros((0, 3)), np.zeros(0, np.int64)
        file = self.file(case)
        if file is not None:
            prompt = read_prompt(file, geometry, case, self.class_names)
            points, labels = prompt.points, prompt.labels
        for click in self.typed:
            position = np.array([click.position])
            points = np.concatenate([points, position if click.in_world else geometry.from_file_index(position)])
            labels = np.append(labels, click.label)
        return Prompt(points, labels, case)
