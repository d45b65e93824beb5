"""Read image, truth, predictions and clicks of a case, and turn them as radiologists view them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from sam3d_nnunet.datasets.case_files import case_file
from sam3d_nnunet.evaluation.results import PredictionFolder, Results
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import REVERSED, ImageGeometry
from sam3d_nnunet.nnunet.readers import find_reader
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.simulation.protocols import AUTOMATIC


class PatientView:
    """Turns arrays so that d runs to the head, h to the back and w to the patient's left, as closely as the axes allow.

    A slice drawn row by row then shows the patient from the feet, front up, as radiologists view it.

    Attributes:
        shape: (D, H, W) of the arrays before.
        geometry: of the arrays after.
        spacing: mm along (d, h, w) after.
    """

    def __init__(self, geometry: ImageGeometry, shape: tuple[int, ...]) -> None:
        self._orientation = io_orientation(geometry.affine)  # of the array's axes among x, y, z
        self.shape = tuple(shape)
        turned = geometry.affine @ inv_ornt_aff(self._orientation, shape)
        self.geometry = ImageGeometry(turned[:, REVERSED])
        self.spacing = self.geometry.spacing

    def turn(self, array: np.ndarray) -> np.ndarray:
        """An array as nnU-Net's reader returns it -> (d, h, w) of this view."""
        return apply_orientation(array, self._orientation).transpose()


@dataclass(frozen=True)
class CaseImage:
    """A case to draw.

    Attributes:
        name: of the case.
        image: (d, h, w) first channel.
        truth: (d, h, w) label map.
        view: position of these arrays in the world, and their spacing in mm.
        is_ct: whether the image holds Hounsfield units.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    view: PatientView
    is_ct: bool


class CaseReader:
    """Reads the files of a case of the results."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._reader = find_reader(results.dataset_json, self._examples())()

    def image(self, case: str) -> CaseImage:
        """
        Raises:
            SAM3DError: image or truth can't be read, or don't have the same voxels.
        """
        file, truth_file = self._files(case)
        channels, properties = read_image([file], self._reader)
        view = PatientView(ImageGeometry.from_file(file, properties), channels.shape[1:])
        image = view.turn(channels[0])
        truth = self._labels(truth_file, view, file)
        # nnU-Net recognises CT by this name too
        is_ct = next(iter(self._results.dataset_json.get("channel_names", {}).values()), "").upper() == "CT"
        return CaseImage(case, image, truth, view, is_ct)

    def prediction(self, case: CaseImage, folder: PredictionFolder) -> np.ndarray:
        """(d, h, w) label map.

        Raises:
            SAM3DError: it isn't there, can't be read, or doesn't have the image's voxels.
        """
        file = folder.path / f"{case.name}{self._results.file_ending}"
        return self._labels(file, case.view, self._files(case.name)[0])

    def clicks(self, case: CaseImage, folder: PredictionFolder) -> tuple[np.ndarray, np.ndarray]:
        """Clicks that the prediction was made with: (N, 3) voxel coordinates (d, h, w) and (N,) labels.

        Raises:
            SAM3DError: the file of the clicks can't be read.
        """
        if folder.protocol == AUTOMATIC:
            return np.empty((0, 3)), np.empty(0, dtype=int)
        # Clicks lie in a CSV if CASE.json holds the image's spacing. Those drawn beforehand lack corrective clicks.
        beside = [folder.path / f"{case.name}{ending}" for ending in (".csv", ".json")]
        for file in [*beside, self._results.prompt_file(folder.protocol, folder.trial, case.name)]:
            if file.is_file():
                prompt = read_prompt(file)
                return case.view.geometry.to_voxels(prompt.points), prompt.labels
        return np.empty((0, 3)), np.empty(0, dtype=int)

    def _examples(self) -> Iterator[Path]:
        """Images of the results, then label maps."""
        for case in self._results.metrics["case"].unique():
            yield self._files(case)[0]
        for case in self._results.metrics["case"].unique():
            yield self._files(case)[1]

    def _files(self, case: str) -> tuple[Path, Path]:
        """First channel and truth of a training case, or of a test case if there is no such training case."""
        known, ending = self._results.known, self._results.file_ending
        image, truth = f"{case}_0000{ending}", f"{case}{ending}"
        listed = self._results.dataset_json.get("dataset") or {}
        file = Path(listed[case]["images"][0]) if case in listed else Path(known("images")) / image
        if not file.is_file() and "test_images" in self._results.data:
            folder = Path(known("test_images"))
            file = folder / image if (folder / image).is_file() else case_file(folder, case, ending)
            return file, Path(known("test_truth")) / truth
        return file, Path(known("truth")) / truth

    def _labels(self, file: Path, view: PatientView, image: Path) -> np.ndarray:
        label_map = read_label_map(file, self._reader)
        label_map.check_shape(view.shape, f"its image {image}")
        return view.turn(label_map.array)
