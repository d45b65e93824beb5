"""Validation with the paper's protocol: clicks on each class that is present in a validation case."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist
from nnunetv2.configuration import default_num_processes
from tqdm import tqdm

from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.image_grid import ImageGrid
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.cases import ImageCase
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.writer import CaseWriter
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.draw import case_generator, clicks_per_class
from sam3d_nnunet.training.planned_trainer import wait_for_all_ranks
from sam3d_nnunet.training.preprocessed_cases import load_preprocessed
from sam3d_nnunet.training.whole_outputs import measure_into_whole_file

if TYPE_CHECKING:
    from sam3d_nnunet.training.prompted_trainer import PromptedTrainer


def validate_prompted(trainer: "PromptedTrainer", count: int, save_probabilities: bool = False) -> None:
    """Predict a fold's validation cases from clicks into `validation_{n}click/`, as `sam3d predict` would.

    The clicks of a case are the same for all models: they are drawn from its original label map with a seed from its
    name, and saved as CASE.json beside the prediction. `summary.json` is nnU-Net's.

    Args:
        trainer: an initialised trainer.
        count: clicks on each class that is present in a volume.
        save_probabilities: also write nnU-Net's .npz and .pkl files.
    """
    folder = Path(trainer.output_folder) / f"validation_{count}click"
    folder.mkdir(parents=True, exist_ok=True)
    _, cases = trainer.do_split()
    if trainer.is_ddp:
        cases = cases[trainer.local_rank :: dist.get_world_size()]
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    trainer.print_to_log_file(f"Predicting {len(cases)} cases with {count} click(s) per class")
    model = trained_model(trainer)
    predictor, writer = SAM3DPredictor(trainer.device, keep_in_crop=True), CaseWriter(folder, model, save_probabilities)
    predictor.use(model)
    raw = _raw_dataset(trainer)
    for case in tqdm(cases, desc=folder.name, disable=trainer.local_rank != 0):
        data, _, _, properties = load_preprocessed(dataset, case)
        file = _image_file(raw, case)
        geometry = None if file is None else ImageGeometry.from_file(file, properties)
        image = ImageCase.from_preprocessed(data[:], properties, model, geometry)
        prompt = _draw_prompt(trainer, case, file, image, count)
        predict = predictor.predict_read if len(prompt.points) else predictor.predict_nothing
        writer.write(case, predict(image, prompt))
    if trainer.is_ddp:
        wait_for_all_ranks()
    if trainer.local_rank == 0:
        _summarise(trainer, folder)


def trained_model(trainer: "PromptedTrainer") -> TrainedModel:
    """The model of a trainer in its current state, without the wrappers of DDP and torch.compile."""
    return TrainedModel(
        networks=[trainer.plain_network().eval()],
        plans=trainer.plans_manager,
        configuration=trainer.configuration_manager,
        labels=trainer.label_manager,
        dataset_json=trainer.dataset_json,
        channels=trainer.num_input_channels,
        mirror_axes=trainer.inference_allowed_mirroring_axes,
        clicks_carry_labels=trainer.settings.clicks_carry_labels,
        clicks_select=trainer.settings.clicks_select,
    )


def _truth_file(trainer: "PromptedTrainer", case: str) -> Path:
    folder = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    return folder / f"{case}{trainer.dataset_json['file_ending']}"


def _raw_dataset(trainer: "PromptedTrainer") -> RawDataset | None:
    """None where it is not there any more, since training can do without."""
    try:
        return RawDataset.find(trainer.plans_manager.dataset_name)
    except SAM3DError:
        return None


def _image_file(raw: RawDataset | None, case: str) -> Path | None:
    """The first channel of a case; None where it is not there any more."""
    if raw is None:
        return None
    try:
        file = raw.image_files(case)[0]
    except SAM3DError:  # dataset.json lists other cases
        return None
    return file if file.is_file() else None


def _draw_prompt(trainer: "PromptedTrainer", case: str, file: Path | None, image: ImageCase, count: int) -> Prompt:
    """Clicks by the voxels of the label map, and where these are in the world of the image."""
    label_map = read_label_map(_truth_file(trainer, case), trainer.plans_manager.image_reader_writer_class())
    name = "its image" if file is None else f"its image {file}"
    note = label_map.place_note(ImageGrid.from_properties(name, image.shape, image.geometry, image.properties))
    if note is not None:
        trainer.print_to_log_file(f"{case}: {note}")
    segmentation, geometry = image.geometry.in_file_order(label_map.array)
    classes = list(trainer.label_manager.foreground_labels)
    clicks = clicks_per_class(segmentation, classes, count, case_generator(case))
    return Prompt(geometry.to_world(clicks.points), clicks.labels, case)


def _summarise(trainer: "PromptedTrainer", folder: Path) -> None:
    labels = trainer.label_manager
    metrics = measure_into_whole_file(
        str(Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"),
        str(folder),
        str(folder / "summary.json"),
        trainer.plans_manager.image_reader_writer_class(),
        trainer.dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
        chill=True,
        num_processes=default_num_processes,
    )
    trainer.print_to_log_file(f"Mean Dice in {folder.name}: {metrics['foreground_mean']['Dice']}")
