"""Write the files of a predicted case; they appear complete or not at all."""

import json
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.writing import write_label_map
from sam3d_nnunet.io import whole_files, write_text
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.predictor import CasePrediction
from sam3d_nnunet.prompts.files import write_prompt

INSTANCES = "instances"  # in their own folder, because nnU-Net takes every file with this ending for a segmentation


class CaseWriter:
    """Writes predictions into a folder as nnU-Net does, with the clicks beside them."""

    def __init__(
        self, folder: str | Path, model: TrainedModel, probabilities: bool = False, instances: bool = False
    ) -> None:
        """
        Args:
            folder: for all cases; created if it is missing.
            model: of the predictions.
            probabilities: also write nnU-Net's .npz and .pkl.
            instances: also write instance maps, to `instances/` in the folder.
        """
        self.folder = Path(folder)
        self.model = model
        self.probabilities = probabilities
        self.instances = instances
        # nnU-Net's TIFF writer stores the spacing in CASE.json
        self._spacing_apart = issubclass(model.plans.image_reader_writer_class, Tiff3DIO)

    def prepare(self) -> None:
        """Create the folder, with the files that nnU-Net's tools need beside predictions."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "dataset.json", json.dumps(self.model.dataset_json, indent=4))
        write_text(self.folder / "plans.json", json.dumps(self.model.plans.plans, indent=4))

    def files(self, name: str) -> list[Path]:
        """All files that `write` makes for a case."""
        ending = self.model.file_ending
        names = [f"{name}{ending}", f"{name}.json"]
        if self._spacing_apart:
            names.append(f"{name}.csv")
        if self.probabilities:
            names += [f"{name}.npz", f"{name}.pkl"]
        if self.instances:
            names.append(f"{INSTANCES}/{name}{ending}")
        return [self.folder / file for file in names]

    def is_finished(self, name: str) -> bool:
        """Whether all files of a case exist."""
        return all(file.is_file() for file in self.files(name))

    def refuse_to_overwrite(self, name: str, sources: Iterable[Path]) -> None:
        """Protect the files that a case is predicted from.

        Args:
            name: of the case.
            sources: these files; they exist.

        Raises:
            SAM3DError: `write` would overwrite one of them.
        """
        there = [file for file in self.files(name) if file.exists()]
        for source in sources:
            if any(source.samefile(file) for file in there):
                raise SAM3DError(
                    f"The prediction would overwrite {source}, from which it is made. Give another output folder (-o)."
                )

    def write(self, name: str, prediction: CasePrediction) -> np.ndarray:
        """Write all files of a case. The segmentation comes last: if it is there, so are the others.

        Returns:
            The segmentation.
        """
        with self.writing(name, prediction) as segmentation:
            return segmentation

    @contextmanager
    def writing(self, name: str, prediction: CasePrediction) -> Iterator[np.ndarray]:
        """As `write`, but the files get their names when the block ends: what it notes of the case is there before.

        Yields:
            The segmentation.
        """
        main = f"{name}{self.model.file_ending}"
        properties = prediction.case.properties
        images = self.model.plans.image_reader_writer_class()
        with whole_files(self.folder, last=main) as part:
            segmentation = prediction.segmentation()
            write_label_map(segmentation, part / main, properties, images)
            write_prompt(prediction.prompt, part / f"{name}{'.csv' if self._spacing_apart else '.json'}")
            if self.probabilities:
                _write_npz(prediction, part / f"{name}.npz")
                (part / f"{name}.pkl").write_bytes(pickle.dumps(properties))
            if self.instances:
                (part / INSTANCES).mkdir()
                found = prediction.instances(segmentation)
                write_label_map(found, part / INSTANCES / main, properties, images)
            yield segmentation


def _write_npz(prediction: CasePrediction, file: Path) -> None:
    """What numpy's savez_compressed would write, without all probabilities in memory."""
    array = file.with_suffix(".npy")
    prediction.probabilities(array)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(array, "probabilities.npy")
    array.unlink()
