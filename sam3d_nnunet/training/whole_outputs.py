"""What nnU-Net's training and validation write in place: here each file appears complete or not at all.

A full disk or a kill would otherwise leave half of a file, also of those that other folds of the model need. These
functions take the place of nnU-Net's (`exchanged`). Its validation runs one of them in other processes.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_json, save_pickle
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from sam3d_nnunet.geometry.writing import write_label_map
from sam3d_nnunet.io import whole_file, whole_files
from sam3d_nnunet.processes import end_with_parent


def save_whole_json(content: Any, file: str, **options: Any) -> None:
    """nnU-Net's `save_json`."""
    with whole_file(Path(file)) as part:
        save_json(content, str(part), **options)


def copy_whole_file(source: str, target: str) -> None:
    """`shutil.copyfile`."""
    with whole_file(Path(target)) as part:
        shutil.copyfile(source, part)


def export_whole_case(
    logits: Tensor,
    properties: dict[str, Any],
    configuration: ConfigurationManager,
    plans: PlansManager,
    dataset_json: dict[str, Any],
    truncated: str,
    save_probabilities: bool = False,
) -> None:
    """nnU-Net's `export_prediction_from_logits`; the segmentation is read back, since ITK hides that a disk is full.

    nnU-Net runs it in other processes. They would export on after a kill of the training, into the next one's files.

    Args:
        logits: (K, D, H, W) on the preprocessed grid.
        properties: of the case.
        configuration: of the plans.
        plans: of the model.
        dataset_json: of the data set.
        truncated: the file to write, without its ending.
        save_probabilities: also write the .npz and .pkl.

    Raises:
        OSError: a file can't be written.
    """
    end_with_parent()
    converted = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        plans,
        configuration,
        plans.get_label_manager(dataset_json),
        properties,
        return_probabilities=save_probabilities,
        num_threads_torch=default_num_processes,
    )
    segmentation, probabilities = converted if save_probabilities else (converted, None)
    folder, name = Path(truncated).parent, Path(truncated).name
    main = f"{name}{dataset_json['file_ending']}"
    with whole_files(folder, last=main) as part:
        if probabilities is not None:
            np.savez_compressed(part / f"{name}.npz", probabilities=probabilities)
            save_pickle(properties, str(part / f"{name}.pkl"))
        write_label_map(segmentation, part / main, properties, plans.image_reader_writer_class())


def measure_into_whole_file(truth: str, predicted: str, summary: str, *arguments: Any, **options: Any) -> dict:
    """nnU-Net's `compute_metrics_on_folder`."""
    with whole_file(Path(summary)) as part:
        return compute_metrics_on_folder(truth, predicted, str(part), *arguments, **options)
