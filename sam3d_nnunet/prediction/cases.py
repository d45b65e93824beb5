"""What is read for the prediction of a case: its files, its clicks, its image and a segmentation to refine.

Clicks come from prompt files, from a command, or from the components of the segmentation. Images are preprocessed as in
training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.datasets.case_files import (
    CONVERT,
    ENDINGS,
    ImageName,
    cases_in_folder,
    image_name,
    is_dicom,
    name_fault,
)
from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.image_grid import ImageGrid
from sam3d_nnunet.geometry.images import read_stored_image
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.turn import NO_TURN, Turn
from sam3d_nnunet.geometry.world import ImageGeometry, read_header
from sam3d_nnunet.io import listing
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prediction.grid_image import GridImage, WholeImage
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.preprocessing import preprocess
from sam3d_nnunet.prompts.files import find_prompts, read_prompt
from sam3d_nnunet.prompts.labels import LabelReader
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.draw import connected_components, interior_point

MAX_CLICKS = 32  # in a segmentation to refine


def find_cases(path: str | Path, model: TrainedModel) -> dict[str, list[Path]]:
    """Files of each case, one for each channel of the model. They may be missing.

    Args:
        path: a folder, as `cases_in_folder` takes it: usually with CASE_0000, CASE_0001, ..., one number for each
            channel. Or the first channel of one image, which may have any name where the model has one channel, and
            any ending that nnU-Net's reader opens.
        model: for the prediction.

    Raises:
        SAM3DError: there is no such image, its name doesn't tell the case and the channel, or a case has a reserved
            name.
    """
    path = Path(path)
    if path.is_dir():
        numbers = issubclass(model.plans.image_reader_writer_class, Tiff3DIO)
        cases = cases_in_folder(path, model.file_ending, model.channels, needs_numbers=numbers)
    elif path.is_file():
        cases = _single(path, model)
    else:
        raise SAM3DError(f"There is no image file or folder {path}.")
    for case, files in cases.items():
        if fault := name_fault(case):
            raise SAM3DError(f"{files[0]} can't be predicted as the case {case!a}: the name {fault}. Rename the file.")
    return cases


def _single(file: Path, model: TrainedModel) -> dict[str, list[Path]]:
    name = _name_of_image(file, model)
    if model.channels == 1 and name.channel != 0:
        if issubclass(model.plans.image_reader_writer_class, Tiff3DIO):
            raise SAM3DError(
                f"Rename {file} to {name.renamed()}: nnU-Net looks for the spacing of a TIFF image in CASE.json beside "
                "CASE_0000."
            )
        return {name.stem: [file]}
    if name.channel != 0:
        raise SAM3DError(
            f"The model has {model.channels} channels: give the first one, CASE_0000{name.ending}, not {file}."
        )
    return {name.case: [file.with_name(f"{name.case}_{c:04}{name.ending}") for c in range(model.channels)]}


def _name_of_image(file: Path, model: TrainedModel) -> ImageName:
    """The parts of the file's name. ITK is asked whether a file of an unusual ending holds a volume."""
    if is_dicom(file):
        raise SAM3DError(f"{file} is a DICOM file. {CONVERT}")
    name = image_name(file, [model.file_ending, *model.plans.image_reader_writer_class.supported_file_endings])
    if name is None:
        try:
            axes = len(read_header(file).size)
        except SAM3DError as e:
            raise SAM3DError(
                f"{file} is no image of a known format: its name should end like {listing(ENDINGS)}."
            ) from e
        if axes < 3:
            raise SAM3DError(f"{file} is a flat image, but the model segments volumes.")
        name = ImageName(file, file.stem, file.suffix)
    return name


@dataclass(frozen=True)
class TypedClick:
    """A click that was typed in a command, on its only image.

    Attributes:
        position: (x, y, z) in the world, or voxel (i, j, k) of the image file.
        label: of the click.
        in_world: whether `position` is in the world.
    """

    position: tuple[float, float, float]
    label: int
    in_world: bool

    @classmethod
    def parse(cls, text: str, in_world: bool, class_names: dict[str, int]) -> "TypedClick":
        """From "x,y,z" or "x,y,z=label"; the label is a number or the name of a class.

        Raises:
            SAM3DError: the text has another form.
        """
        numbers, _, name = text.partition("=")
        try:
            position = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            position = ()
        axes = "x,y,z" if in_world else "i,j,k"
        if len(position) != 3 or not all(map(math.isfinite, position)):
            raise SAM3DError(f"The click {text!r} must be {axes} or {axes}=label, with three finite numbers.")
        if text.endswith("="):
            raise SAM3DError(
                f"The click {text!r} ends without a label. Write one after the sign, or leave the sign out."
            )
        return cls(position, LabelReader(class_names).read({"label": name}, f"The click {text!r}"), in_world)


@dataclass(frozen=True)
class ClickSource:
    """The clicks on each case, from files, from a command, or both.

    Attributes:
        class_names: labels of the model by name, for files that use names.
        files: prompt file or folder of prompt files, if any.
        typed: further clicks; for a single case only.
    """

    class_names: dict[str, int]
    files: Path | None = None
    typed: Sequence[TypedClick] = field(default=())

    def __bool__(self) -> bool:
        return self.files is not None or bool(self.typed)

    def check(self, cases: Sequence[str]) -> None:
        """Check that the clicks can belong to these cases, before any case is read.

        Raises:
            SAM3DError: the prompt file is missing or not for these cases, or clicks are typed for several cases.
        """
        if self.typed and len(cases) != 1:
            raise SAM3DError(f"Typed clicks need one image, but there are {len(cases)}. Write prompt files instead.")
        if self.files is not None and not self.files.is_dir():
            find_prompts(self.files, cases)

    def file(self, case: str) -> Path | None:
        """The prompt file of a case; None if there are only typed clicks.

        Raises:
            SAM3DError: it is missing, or there are several.
        """
        return None if self.files is None else find_prompts(self.files, [case])[case]

    def prompt(self, case: str, geometry: ImageGeometry) -> Prompt | None:
        """All clicks on a case; None if there is no source of clicks.

        Raises:
            SAM3DError: the prompt file is missing or can't be used.
        """
        if not self:
            return None
        points, labels, notes = np.zeros((0, 3)), np.zeros(0, np.int64), ()
        file = self.file(case)
        if file is not None:
            prompt = read_prompt(file, geometry, case, self.class_names)
            points, labels, notes = prompt.points, prompt.labels, prompt.notes
        for click in self.typed:
            position = np.array([click.position])
            points = np.concatenate([points, position if click.in_world else geometry.from_file_index(position)])
            labels = np.append(labels, click.label)
        return Prompt(points, labels, case, notes)


# --- image and segmentation to refine ---


@dataclass(frozen=True)
class ImageCase:
    """A preprocessed image. All but `on_grid` lies as the reader has it, also if the image was turned for the model.

    Attributes:
        on_grid: the preprocessed image.
        properties: from nnU-Net's reader and preprocessor.
        geometry: of the original image.
        grid: of `on_grid`.
        shape: voxels of the original image along (d, h, w).
        turn: what was done to the original image before it was preprocessed.
        note: a remark for the user on how the image was preprocessed.
    """

    on_grid: GridImage
    properties: dict[str, Any]
    geometry: ImageGeometry
    grid: PreprocessedGrid
    shape: tuple[int, int, int]
    turn: Turn = NO_TURN
    note: str | None = None

    @classmethod
    def from_preprocessed(
        cls, data: np.ndarray, properties: dict[str, Any], model: TrainedModel, geometry: ImageGeometry | None = None
    ) -> "ImageCase":
        """From a training case that nnU-Net has preprocessed.

        Args:
            data: (C, D, H, W) preprocessed.
            properties: stored with it.
            model: for the prediction.
            geometry: of the original image. Default: from the properties.
        """
        grid = PreprocessedGrid.from_properties(properties, model.plans.transpose_forward, data.shape[1:])
        before = properties["shape_before_cropping"]
        shape = tuple(int(before[axis]) for axis in grid.transpose_back)
        geometry = geometry or ImageGeometry.from_properties(properties, shape)
        return cls(WholeImage(np.asarray(data, np.float32)), properties, geometry, grid, shape)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the original image."""
        return float(abs(np.linalg.det(self.geometry.affine[:3, :3]))) / 1000


def read_case(image_files: Sequence[str | Path], model: TrainedModel) -> ImageCase:
    """Read the channels of an image, turn it to the orientation of the model and preprocess it.

    Args:
        image_files: one for each channel.
        model: for the prediction.

    Raises:
        SAM3DError: the number of files is not the model's number of channels, a file can't be read or preprocessed, or
            the image is empty or has values that are not finite.
    """
    files = [str(file) for file in image_files]
    if len(files) != model.channels:
        raise SAM3DError(
            f"The model needs {model.channels} channel(s), but there are {len(files)} file(s): {', '.join(files)}."
        )
    image, properties = read_stored_image(files, model.plans.image_reader_writer_class())
    geometry = ImageGeometry.from_file(files[0], properties)
    try:
        done = preprocess(image, properties, geometry, model)
    except Exception as e:  # whatever a header leads to
        raise SAM3DError(f"The image {', '.join(files)} can't be preprocessed: {last_line(e)}") from e
    if not done.finite:
        raise SAM3DError(f"The image {', '.join(files)} holds values that are not finite numbers. Replace them.")
    if done.empty:
        raise SAM3DError(f"The image {', '.join(files)} is empty: all its voxels are 0.")
    return ImageCase(done.on_grid, done.properties, geometry, done.grid, image.shape[1:], done.turn, done.note)


@dataclass(frozen=True)
class PreviousMask:
    """A segmentation to refine, as prompts.

    Attributes:
        prompt: a click in each component, the largest first.
        maps: the segmentation as dense prompt on the preprocessed grid.
        components: their number; only the largest get a click if there are many.
    """

    prompt: Prompt
    maps: DensePrompts
    components: int


def read_previous_mask(file: str | Path, case: ImageCase, model: TrainedModel, name: str) -> PreviousMask:
    """Read a segmentation to refine.

    Args:
        file: the segmentation, on the voxels of the image.
        case: the image.
        model: for the prediction.
        name: of the case.

    Raises:
        SAM3DError: the file can't be read, has other voxels than the image, or has labels that the model doesn't know.
    """
    label_map = read_label_map(file, model.plans.image_reader_writer_class())
    label_map.check_on(ImageGrid.from_properties("its image", case.shape, case.geometry, case.properties))
    label_map.check_labels([0, *model.labels.foreground_labels])
    segmentation, crop = np.zeros(case.shape, np.int16), case.grid.crop.slices
    segmentation[crop] = label_map.array[crop]  # nothing is predicted outside the crop
    # the same clicks however the file lies: of two voxels that are equally deep, the first in the array is taken
    voxels, labels, components = clicks_in_components(np.ascontiguousarray(case.turn.array(segmentation)))
    voxels = case.turn.voxels_back(voxels, case.shape)
    prompt = Prompt(case.geometry.to_world(voxels), labels, name)
    return PreviousMask(prompt, DensePrompts.of_mask(segmentation, case.grid), components)


def clicks_in_components(segmentation: np.ndarray, max_clicks: int = MAX_CLICKS) -> tuple[np.ndarray, np.ndarray, int]:
    """The voxel of each component that is furthest from its surface.

    Args:
        segmentation: (D, H, W) label map; a component has one label, and voxels are connected through corners, too.
        max_clicks: number of components that get a click, the largest ones.

    Returns:
        (N, 3) voxels, the largest component first; (N,) their labels; the number of all components.
    """
    components = connected_components(segmentation)
    statistics = cc3d.statistics(components)
    largest = 1 + np.argsort(-statistics["voxel_counts"][1:].astype(np.int64), kind="stable")[:max_clicks]
    points = []
    for number in largest:
        box = statistics["bounding_boxes"][number]
        points.append(interior_point(components[box] == number) + [place.start for place in box])
    points = np.array(points, int).reshape(-1, 3)
    return points, segmentation[tuple(points.T)].astype(np.int64), int(components.max(initial=0))
