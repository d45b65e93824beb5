"""Which images to predict: nnU-Net's names of files, or a single file."""

import re
from pathlib import Path

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.inference.model_folder import TrainedModel

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
        there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "no file"
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
