"""SAM as published (Kirillov et al., ICCV 2023, arXiv 2304.02643), slice by slice and without training.

`SliceSAM` segments the slices of a volume from clicks. `SliceCases` applies it to the images of a data set.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn
from tqdm import tqdm

from sam3d_nnunet.datasets.case_files import cases_in_folder
from sam3d_nnunet.errors import SAM3DError, reason
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.geometry.writing import write_label_map
from sam3d_nnunet.io import whole_files
from sam3d_nnunet.network.checkpoint_files import read_checkpoint
from sam3d_nnunet.nnunet.readers import find_reader
from sam3d_nnunet.prompts.files import JSON, check_prompt, files_in_folder, find_prompts, read_prompt

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

PERCENTILES = (0.5, 99.5)  # of an image's intensities: the default window


def load_sam(model: str, checkpoint: str) -> "Sam":
    """One of SAM's models on the CPU, in evaluation mode.

    Args:
        model: vit_b, vit_l or vit_h.
        checkpoint: file with its weights.

    Raises:
        SAM3DError: segment-anything is not installed, or the file can't be read or doesn't fit.
    """
    try:
        from segment_anything import sam_model_registry
    except ImportError as e:
        raise SAM3DError(
            f'SAM needs the package segment-anything ({e}). Install it: pip install "sam3d_nnunet[baselines]"'
        ) from e
    weights = {str(name): tensor for name, tensor in read_checkpoint(checkpoint).items()}
    sam = sam_model_registry[model]()  # without its torch.load, which unpickles anything
    try:
        sam.load_state_dict(weights)
    except RuntimeError as e:
        lines = str(e).splitlines()
        raise SAM3DError(
            f"{checkpoint} doesn't hold SAM's {model}: {' '.join(line.strip() for line in lines[1:2])[:300]} "
            "Give a file of facebookresearch/segment-anything for this model."
        ) from e
    return sam.eval()


def to_grey(volume: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """An image as grey values, uint8 of the same shape: 0 up to the lower end of a window, 255 from the upper end.

    Args:
        volume: of any shape.
        window: lowest and highest intensity. None: percentiles 0.5 and 99.5 of the image.
    """
    low, high = np.percentile(volume, PERCENTILES) if window is None else window
    if high <= low:
        return np.zeros(volume.shape, np.uint8)
    return np.rint((np.clip(volume.astype(np.float32), low, high) - low) * (255 / (high - low))).astype(np.uint8)


class SliceSAM:
    """Segments each class on each slice that holds clicks on that class; other slices are background.

    SAM gets a slice as grey RGB, the clicks on the class as foreground points, and the background clicks of the slice
    as background points. As its authors advise, a single point gives three masks, of which the one with the best
    estimated quality is taken, and several points give one mask. Where masks of classes overlap, the higher logit
    decides.
    """

    def __init__(self, sam: nn.Module, device: torch.device | str = "cpu") -> None:
        """
        Args:
            sam: a `Sam` of segment-anything.
            device: where to compute.
        """
        from segment_anything import SamPredictor

        self._predictor = SamPredictor(sam.to(device).eval())

    def predict(self, slices: np.ndarray, points: np.ndarray, labels: np.ndarray, name: str = "") -> np.ndarray:
        """Label map (S, H, W) of the slices.

        Args:
            slices: (S, H, W) uint8 grey values.
            points: (N, 3) voxel coordinates along these axes; a click belongs to the nearest slice.
            labels: (N,) int: k >= 1 a click on class k, 0 a click on background.
            name: of the image, for the progress bar.
        """
        result = np.zeros(slices.shape, np.uint8 if labels.max(initial=0) < 256 else np.uint16)
        numbers = slice_numbers(points, len(slices))
        for number in tqdm(np.unique(numbers[labels > 0]), desc=name, unit="slice", leave=False):
            here = numbers == number
            result[number] = self._predict_slice(slices[number], points[here, 1:], labels[here])
        return result

    def _predict_slice(self, image: np.ndarray, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
        self._predictor.set_image(np.repeat(image[..., None], 3, axis=-1))
        result = np.zeros(image.shape, int)
        highest = np.full(image.shape, self._predictor.model.mask_threshold, np.float32)
        for label in np.unique(labels[labels > 0]):
            given = np.isin(labels, (0, label))
            masks, qualities, _ = self._predictor.predict(
                np.ascontiguousarray(points[given, ::-1]),  # SAM's x runs along the rows
                (labels[given] > 0).astype(int),
                multimask_output=bool(given.sum() == 1),
                return_logits=True,
            )
            logits = masks[qualities.argmax()]
            result[logits > highest] = label
            highest = np.maximum(highest, logits)
        return result


def slice_numbers(points: np.ndarray, count: int) -> np.ndarray:
    """(N,) the number of the slice, among `count`, that is nearest to each point (slice, h, w)."""
    return np.clip(np.rint(points[:, 0]), 0, count - 1).astype(int)


@dataclass(frozen=True)
class SliceReport:
    """Report of the prediction of a case.

    Attributes:
        name: of the case.
        error: why there is no prediction, as a sentence; None if there is one.
        clicks: number of clicks.
        slices: number of slices with clicks on foreground.
        seconds: for reading, predicting and writing.
        notes: what was assumed when the clicks were read.
    """

    name: str
    error: str | None = None
    clicks: int = 0
    slices: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: failed. {self.error}"
        counts = f"{self.name}: {self.clicks} click(s), {self.slices} slice(s), {self.seconds:.1f} s"
        return "; ".join([counts, *self.notes])


class SliceCases:
    """Images of a data set, whose first channel SAM segments, and the folder for the segmentations."""

    def __init__(self, images: str | Path, output: str | Path, dataset_json: dict[str, Any]) -> None:
        """
        Args:
            images: folder of CASE_0000, as `cases_in_folder` takes it.
            output: folder for the segmentations CASE; created if it is missing.
            dataset_json: nnU-Net's description of these images.

        Raises:
            SAM3DError: there is no such folder, it holds no such image, or nnU-Net can't read the files.
        """
        self.folder, self.output = Path(images), Path(output)
        self.ending = dataset_json["file_ending"]
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
        numbers = self.ending.lower() in Tiff3DIO.supported_file_endings
        found = cases_in_folder(self.folder, self.ending, len(dataset_json.get("channel_names", "0")), numbers)
        self._images = {case: channels[0] for case, channels in found.items()}
        self.names = sorted(self._images)
        self._files = find_reader(dataset_json, self._images.values())()

    def is_finished(self, name: str) -> bool:
        """Whether a case has a segmentation."""
        return (self.output / f"{name}{self.ending}").is_file()

    def with_clicks(self, prompts: str | Path) -> list[str]:
        """Names of the cases that have a prompt file.

        Args:
            prompts: folder of prompt files named like the cases, or one file for all cases, as `find_prompts` takes it.

        Raises:
            SAM3DError: no case has one, or the single file is not for these cases.
        """
        folder = Path(prompts)
        if not folder.is_dir():
            return list(find_prompts(folder, self.names))
        clicked = [name for name, files in files_in_folder(folder, self.names).items() if files]
        if not clicked:
            raise SAM3DError(
                f"{folder} holds no prompt file of the {len(self.names)} case(s) in {self.folder}, such as "
                f"{self.names[0]}{JSON}. Give a folder of files named like the cases."
            )
        return clicked

    def predict(
        self,
        sam: SliceSAM,
        names: list[str],
        prompts: str | Path,
        window: tuple[float, float] | None = None,
        note: Callable[[SliceReport], None] | None = None,
    ) -> Iterator[SliceReport]:
        """Predict cases one after the other, and yield a report when a segmentation is written.

        Args:
            sam: predicts slices.
            names: of cases.
            prompts: folder of prompt files named like the cases, or one file, as `find_prompts` takes them.
            window: see `to_grey`.
            note: keeps the report of a case, before its segmentation gets its name.
        """
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise SAM3DError(f"{self.output} can't be the folder for segmentations: {e.strerror}.") from e
        for name in names:
            try:
                report = self._predict(sam, name, prompts, window, note)
            except Exception as e:  # an error in one image stops no other
                report = SliceReport(name, reason(e))
            yield report

    def _predict(
        self,
        sam: SliceSAM,
        name: str,
        prompts: str | Path,
        window: tuple[float, float] | None,
        note: Callable[[SliceReport], None] | None,
    ) -> SliceReport:
        start = time.perf_counter()
        image, properties, geometry = self._read(name)
        prompt = read_prompt(find_prompts(prompts, [name])[name], geometry, name, self._class_names)
        if len(prompt.points):  # there are no clicks if the class is in no slice
            check_prompt(prompt, geometry, image.shape, [0, *self._labels])
        axes = geometry.axial_order
        points = geometry.to_voxels(prompt.points)[:, axes]
        slices = to_grey(image, window).transpose(axes)
        segmentation = sam.predict(slices, points, prompt.labels, name).transpose(np.argsort(axes))
        used = np.unique(slice_numbers(points, len(slices))[prompt.labels > 0])
        with self._writing(name, segmentation, properties):
            report = SliceReport(name, None, len(points), len(used), time.perf_counter() - start, prompt.notes)
            if note is not None:
                note(report)
        return report

    def _read(self, name: str) -> tuple[np.ndarray, dict[str, Any], ImageGeometry]:
        file = self._images[name]
        channels, properties = read_image([file], self._files)
        if len(channels) != 1:
            raise SAM3DError(f"The image {file} holds {len(channels)} volumes, such as colours. Give one channel.")
        geometry = ImageGeometry.from_file(file, properties)
        if not np.isfinite(channels[0]).all():
            raise SAM3DError(f"The image {file} holds values that are not finite numbers. Replace them.")
        return channels[0], properties, geometry

    @contextmanager
    def _writing(self, name: str, segmentation: np.ndarray, properties: dict[str, Any]) -> Iterator[None]:
        """Write the segmentation, complete or not at all. It gets its name when the block ends.

        nnU-Net's TIFF writer adds a file with the spacing.
        """
        main = f"{name}{self.ending}"
        with whole_files(self.output, last=main) as part:
            write_label_map(np.ascontiguousarray(segmentation), part / main, properties, self._files)
            yield
