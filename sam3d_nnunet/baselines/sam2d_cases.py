"""A folder of images through 2-D SAM; one bad case doesn't cost the others."""

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sam3d_nnunet.baselines.sam2d import SliceSAM, slice_numbers, to_grey
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts.check import check_prompt
from sam3d_nnunet.prompts.files import ENDINGS, JSON, find_prompts, read_prompt
from sam3d_nnunet.prompts.geometry import ImageGeometry


@dataclass(frozen=True)
class SliceReport:
    """How the prediction of a case went.

    Attributes:
        name: of the case.
        error: why there is no prediction, in a sentence; None if there is one.
        clicks: how many were used.
        slices: how many hold clicks on foreground.
        seconds: for reading, predicting and writing.
    """

    name: str
    error: str | None = None
    clicks: int = 0
    slices: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: failed. {self.error}"
        return f"{self.name}: {self.clicks} click(s), {self.slices} slice(s), {self.seconds:.1f} s"


class SliceCases:
    """Images of a data set, of which SAM sees the first channel, and where their segmentations go."""

    def __init__(self, images: str | Path, output: str | Path, dataset_json: dict[str, Any]) -> None:
        """
        Args:
            images: folder of CASE_0000.
            output: folder for the segmentations CASE; made if it isn't there.
            dataset_json: nnU-Net's description of such images.

        Raises:
            SAM3DError: there is no such folder, or no such image in it; or nnU-Net can't read this kind of files.
        """
        self.folder, self.output = Path(images), Path(output)
        self.ending = dataset_json["file_ending"]
        try:
            self._files = determine_reader_writer_from_dataset_json(dataset_json, verbose=False)()
        except RuntimeError as e:
            raise SAM3DError(f"nnU-Net has no reader for the data set's files, which end in {self.ending}.") from e
        try:
            manager = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
        except (AssertionError, AttributeError, TypeError) as e:
            raise SAM3DError(
                "The labels in dataset.json can't be used: they must be numbers or, with regions_class_order, lists of "
                "numbers, by name."
            ) from e
        self._labels = manager.foreground_labels
        self._class_names = {k: v for k, v in dataset_json["labels"].items() if isinstance(v, int) and k != "ignore"}
        if not self.folder.is_dir():
            raise SAM3DError(f"There is no folder {self.folder} with images.")
        last = f"_0000{self.ending}"
        # macOS puts ._CASE_0000 beside files on foreign disks
        self.names = sorted(file.name.removesuffix(last) for file in self.folder.glob(f"[!.]*{last}"))
        if not self.names:
            raise SAM3DError(f"{self.folder} holds no image CASE{last}.")

    def is_finished(self, name: str) -> bool:
        """Whether a case has a segmentation."""
        return (self.output / f"{name}{self.ending}").is_file()

    def with_clicks(self, prompts: str | Path) -> list[str]:
        """Names of the cases that have a prompt file.

        Args:
            prompts: folder of prompt files named like the cases, or one file for all cases, as `find_prompts` takes it.

        Raises:
            SAM3DError: no case has one, or the one file is not for these cases.
        """
        folder = Path(prompts)
        if not folder.is_dir():
            return list(find_prompts(folder, self.names))
        clicked = [name for name in self.names if any((folder / f"{name}{ending}").is_file() for ending in ENDINGS)]
        if not clicked:
            raise SAM3DError(
                f"{folder} holds no prompt file of the {len(self.names)} case(s) in {self.folder}, such as "
                f"{self.names[0]}{JSON}. Give a folder of files named like the cases."
            )
        return clicked

    def predict(
        self, sam: SliceSAM, names: list[str], prompts: str | Path, window: tuple[float, float] | None = None
    ) -> Iterator[SliceReport]:
        """Predict cases one after the other; a report comes when the segmentation is written.

        Args:
            sam: predicts slices.
            names: of cases.
            prompts: folder of prompt files named like the cases, or one file, as `find_prompts` takes them.
            window: see `to_grey`.
        """
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise SAM3DError(f"{self.output} can't be the folder for segmentations: {e.strerror}.") from e
        for name in names:
            try:
                yield self._predict(sam, name, prompts, window)
            except SAM3DError as e:
                yield SliceReport(name, str(e))
            except Exception as e:  # whatever nobody has foreseen in one image
                traceback.print_exception(e, file=sys.stderr)
                yield SliceReport(name, f"{type(e).__name__}: {e}")

    def _predict(
        self, sam: SliceSAM, name: str, prompts: str | Path, window: tuple[float, float] | None
    ) -> SliceReport:
        start = time.perf_counter()
        image, properties, geometry = self._read(name)
        prompt = read_prompt(find_prompts(prompts, [name])[name], geometry, name, self._class_names)
        if len(prompt.points):  # there are none where the class is in no slice
            check_prompt(prompt, geometry, image.shape, [0, *self._labels])
        axes = geometry.axial_order
        points = geometry.to_voxels(prompt.points)[:, axes]
        slices = to_grey(image, window).transpose(axes)
        segmentation = sam.predict(slices, points, prompt.labels, name).transpose(np.argsort(axes))
        self._write(name, segmentation, properties)
        used = np.unique(slice_numbers(points, len(slices))[prompt.labels > 0])
        return SliceReport(name, None, len(points), len(used), time.perf_counter() - start)

    def _read(self, name: str) -> tuple[np.ndarray, dict[str, Any], ImageGeometry]:
        file = self.folder / f"{name}_0000{self.ending}"
        try:
            channels, properties = self._files.read_images([str(file)])
        except Exception as e:  # whatever the reader of the format raises
            reason = (str(e).strip().splitlines() or [""])[-1]  # ITK's messages are pages long
            raise SAM3DError(f"The image {file} can't be read: {type(e).__name__}: {reason}") from e
        geometry = ImageGeometry.from_file(file, properties)
        if len(channels) != 1:
            raise SAM3DError(f"The image {file} holds {len(channels)} volumes instead of one. Give each its own file.")
        if not np.isfinite(channels[0]).all():
            raise SAM3DError(f"The image {file} holds values that are no finite numbers. Replace them.")
        return channels[0], properties, geometry

    def _write(self, name: str, segmentation: np.ndarray, properties: dict[str, Any]) -> None:
        """The segmentation, complete or not at all; nnU-Net's writer of TIFF puts the spacing beside it."""
        with tempfile.TemporaryDirectory(prefix=".part_", dir=self.output) as temporary:
            main = Path(temporary) / f"{name}{self.ending}"
            self._files.write_seg(np.ascontiguousarray(segmentation), str(main), properties)
            for file in sorted(Path(temporary).iterdir(), key=lambda f: f == main):
                os.replace(file, self.output / file.name)
