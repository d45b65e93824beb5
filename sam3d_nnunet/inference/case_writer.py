"""Files of a predicted case, which appear complete or not at all."""

import json
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from sam3d_nnunet.inference.model_folder import TrainedModel
from sam3d_nnunet.inference.predictor import CasePrediction
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.text_files import write_whole

INSTANCES = "instances"  # a folder of its own: nnU-Net takes all files of an ending for segmentations


class CaseWriter:
    """Writes predictions into a folder, as nnU-Net would, with the clicks beside them."""

    def __init__(
        self, folder: str | Path, model: TrainedModel, probabilities: bool = False, instances: bool = False
    ) -> None:
        """
        Args:
            folder: for all cases; made if it isn't there.
            model: that predicts them.
            probabilities: write nnU-Net's .npz and .pkl, too.
            instances: write instance maps, too, into the folder's `instances/`.
        """
        self.folder = Path(folder)
        self.model = model
        self.probabilities = probabilities
        self.instances = instances

    def prepare(self) -> None:
        """Make the folder, with the files that nnU-Net's tools look for beside predictions."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "dataset.json", json.dumps(self.model.dataset_json, indent=4))
        write_whole(self.folder / "plans.json", json.dumps(self.model.plans.plans, indent=4))

    def is_finished(self, name: str) -> bool:
        """Whether all files of a case are there."""
        ending = self.model.file_ending
        wanted = [f"{name}{ending}"]
        if self.probabilities:
            wanted += [f"{name}.npz", f"{name}.pkl"]
        if self.instances:
            wanted.append(f"{INSTANCES}/{name}{ending}")
        return all((self.folder / file).is_file() for file in wanted)

    def write(self, name: str, prediction: CasePrediction) -> np.ndarray:
        """Write all files of a case; the segmentation comes last, so that it tells that the others are there.

        Returns:
            the segmentation.
        """
        main = f"{name}{self.model.file_ending}"
        properties = prediction.case.properties
        images = self.model.plans.image_reader_writer_class()
        with tempfile.TemporaryDirectory(prefix=".part_", dir=self.folder) as temporary:
            part = Path(temporary)
            segmentation = prediction.segmentation()
            images.write_seg(segmentation, str(part / main), properties)
            # nnU-Net's writer of TIFF keeps the spacing in CASE.json
            prompt_ending = ".csv" if (part / f"{name}.json").exists() else ".json"
            write_prompt(prediction.prompt, part / f"{name}{prompt_ending}")
            if self.probabilities:
                _write_npz(prediction, part / f"{name}.npz")
                (part / f"{name}.pkl").write_bytes(pickle.dumps(properties))
            if self.instances:
                (part / INSTANCES).mkdir()
                (self.folder / INSTANCES).mkdir(exist_ok=True)
                images.write_seg(prediction.instances(segmentation), str(part / INSTANCES / main), properties)
            files = [file.relative_to(part) for file in part.rglob("*") if file.is_file()]
            for file in sorted(files, key=lambda f: f == Path(main)):
                os.replace(part / file, self.folder / file)
        return segmentation


def _write_npz(prediction: CasePrediction, file: Path) -> None:
    """What numpy's savez_compressed would write, without all probabilities in memory."""
    array = file.with_suffix(".npy")
    prediction.probabilities(array)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(array, "probabilities.npy")
    array.unlink()
