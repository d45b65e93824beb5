"""The paper's protocol on the validation cases of a fold: clicks on each present class of a volume."""

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from tqdm import tqdm

from sam3d_nnunet.inference.prompted import predict_prompted
from sam3d_nnunet.planning.settings import BLOCK, parse_settings
from sam3d_nnunet.prompts.draw import case_generator
from sam3d_nnunet.prompts.draw import clicks_per_class as draw_clicks_per_class
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.geometry import ImageGeometry, PreprocessedGrid
from sam3d_nnunet.prompts.prompt import Prompt

if TYPE_CHECKING:
    from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer


def validate_prompted(trainer: "SAM3DAdapterTrainer", clicks_per_class: int, save_probabilities: bool = False) -> None:
    """Predict a fold's validation cases from clicks into `validation_{n}click/`.

    Each case gets the same clicks whatever the model: they are drawn from its original label map and depend on its name
    alone. They lie as CASE.json beside the prediction; `summary.json` is nnU-Net's.

    Args:
        trainer: an initialised trainer.
        clicks_per_class: clicks on each class that is present in a volume.
        save_probabilities: also write nnU-Net's .npz and .pkl files.
    """
    folder = Path(trainer.output_folder) / f"validation_{clicks_per_class}click"
    folder.mkdir(parents=True, exist_ok=True)
    trainer.network.eval()
    _, cases = trainer.do_split()
    if trainer.is_ddp:
        cases = cases[trainer.local_rank :: dist.get_world_size()]
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    trainer.print_to_log_file(f"Predicting {len(cases)} cases with {clicks_per_class} click(s) per class")
    # DDP's wrapper would wait for ranks that have fewer cases
    network = trainer.network.module if trainer.is_ddp else trainer.network
    workers = min(default_num_processes, max(1, len(cases)))
    # not a multiprocessing.Pool, which waits forever where a process was killed, as for lack of memory
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as exporters:
        exports = []
        for case in tqdm(cases, desc=folder.name, disable=trainer.local_rank != 0):
            data, _, _, properties = dataset.load_case(case)
            prompt = _draw_prompt(trainer, case, properties, clicks_per_class)
            write_prompt(prompt, folder / f"{case}.json")
            logits = predict_case(
                network,
                data[:],
                properties,
                prompt,
                trainer.plans_manager,
                trainer.configuration_manager,
                trainer.label_manager,
                trainer.inference_allowed_mirroring_axes,
            )
            running = [e for e in exports if not e.done()]
            if len(running) > 2 * workers:  # whole volumes: few at a time
                wait(running, return_when=FIRST_COMPLETED)
            arguments = (logits, properties, trainer.configuration_manager, trainer.plans_manager, trainer.dataset_json)
            exports.append(
                exporters.submit(export_prediction_from_logits, *arguments, str(folder / case), save_probabilities)
            )
        for export in exports:
            export.result()
    if trainer.is_ddp:
        dist.barrier()
    if trainer.local_rank == 0:
        _summarise(trainer, folder)


def predict_case(
    network: nn.Module,
    data: np.ndarray,
    properties: dict,
    prompt: Prompt,
    plans: PlansManager,
    configuration: ConfigurationManager,
    labels: LabelManager,
    mirror_axes: tuple[int, ...] | None,
) -> torch.Tensor:
    """Logits of a preprocessed case from clicks in the world.

    Args:
        network: a `SAM3D` in evaluation mode.
        data: (C, D, H, W), as nnU-Net's preprocessor wrote it.
        properties: what it stored with it.
        prompt: the clicks.
        plans, configuration, labels: of the training.
        mirror_axes: as in `predict_prompted`.

    Returns:
        (K, D, H, W) float32 on the CPU, on the preprocessed grid.
    """
    voxels = ImageGeometry.from_properties(properties).to_voxels(prompt.points)
    grid = PreprocessedGrid.from_properties(properties, plans.transpose_forward, data.shape[1:])
    labelled = parse_settings(configuration.configuration[BLOCK], "the plans").clicks_carry_labels
    return predict_prompted(
        network,
        torch.from_numpy(data.copy()),
        grid.from_image(voxels),
        prompt.labels if labelled else np.ones_like(prompt.labels),
        tuple(configuration.patch_size),
        labels.num_segmentation_heads,
        labels.has_regions,
        mirror_axes,
    )


def _draw_prompt(trainer: "SAM3DAdapterTrainer", case: str, properties: dict, count: int) -> Prompt:
    file = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations" / case
    reader = trainer.plans_manager.image_reader_writer_class()
    segmentation = reader.read_seg(f"{file}{trainer.dataset_json['file_ending']}")[0][0]
    classes = list(trainer.label_manager.foreground_labels)
    points, labels = draw_clicks_per_class(segmentation, classes, count, case_generator(case))
    return Prompt(ImageGeometry.from_properties(properties).to_world(points), labels, case)


def _summarise(trainer: "SAM3DAdapterTrainer", folder: Path) -> None:
    labels = trainer.label_manager
    metrics = compute_metrics_on_folder(
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
