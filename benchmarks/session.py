"""Seconds of the first and of a further click of a session, and Dice after 1, 3 and 5 corrective clicks.

Examples:
    python benchmarks/session.py speed MODEL_FOLDER case_0000.nii.gz --click 60 120 130
    python benchmarks/session.py clicks MODEL_FOLDER nnUNet_raw/Dataset004_Hippocampus \
        nnUNet_preprocessed/Dataset004_Hippocampus/splits_final.json --fold 0 --csv clicks.csv
"""

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sam3d_nnunet.io import whole_file
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.simulation.draw import correction_click

SHOWN = (1, 3, 5)
COLUMNS = ("case", "clicks", "d", "h", "w", "label", "seconds", "dice")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Examples") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed", help="first click against a further one in the same window")
    clicks = commands.add_parser("clicks", help="corrective clicks on the validation cases of a fold")
    for command in (speed, clicks):
        command.add_argument("model", type=Path, help="folder TRAINER__PLANS__CONFIGURATION")
        command.add_argument("--fold", default="0", help="of the model, and of the cases")
        command.add_argument("--checkpoint", default="checkpoint_final.pth", help="file in the fold's folder")
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    speed.add_argument("image", type=Path, nargs="+", help="one file for each channel")
    speed.add_argument("--click", type=int, nargs=3, help="voxel (d, h, w); default: the middle of the image")
    speed.add_argument("--runs", type=int, default=5, help="medians are printed")
    clicks.add_argument("dataset", type=Path, help="nnU-Net's raw folder, with imagesTr, labelsTr and dataset.json")
    clicks.add_argument("splits", type=Path, help="splits_final.json")
    clicks.add_argument("--cases", type=int, help="only so many of the fold's validation cases")
    clicks.add_argument("--csv", type=Path, default=Path("session_clicks.csv"), help="a row for each click")
    arguments = parser.parse_args()

    session = SAM3DSession(arguments.device, torch_n_threads=arguments.threads)
    fold = arguments.fold if arguments.fold == "all" else int(arguments.fold)
    session.initialize_from_trained_model_folder(arguments.model, fold, arguments.checkpoint)
    if arguments.command == "speed":
        measure_speed(session, arguments.image, arguments.click, arguments.runs)
    else:
        cases = json.loads(arguments.splits.read_text())[fold]["val"][: arguments.cases]
        rows = correct_cases(session, arguments.dataset, cases)
        write_csv(rows, arguments.csv)
        print_curve(rows, arguments.csv)


# --- seconds ---


def measure_speed(session: SAM3DSession, files: list[Path], click: Sequence[int] | None, runs: int) -> None:
    """A new image each time, since otherwise its windows are encoded already."""
    session.set_do_autozoom(False)  # the same window for both clicks, and no other
    image, properties = read(session, files)
    first = np.array(click if click is not None else [n // 2 for n in image.shape[1:]])
    second = np.clip(first + (0, 2, 2), 0, np.array(image.shape[1:]) - 1)
    seconds = []
    for _ in tqdm(range(runs + 1), desc="Clicking"):
        session.set_image(image, properties)
        session.set_target_buffer(np.zeros(image.shape[1:], np.uint8))
        seconds.append([timed_click(session, point, 1) for point in (first, second)])
    once, again = (statistics.median(column) for column in zip(*seconds[1:]))  # without the warm-up
    size = " x ".join(map(str, image.shape[1:]))
    patch = " x ".join(map(str, session.model.configuration.patch_size))
    print(f"{size} voxels, window {patch}, {device_name(session)}, medians of {runs}")
    print(f"first click   {once:8.3f} s")
    print(f"second click  {again:8.3f} s")
    print(f"ratio         {once / again:8.1f}")


def timed_click(session: SAM3DSession, point: Sequence[float], label: int) -> float:
    """Seconds until the mask is in the target buffer."""
    start = time.perf_counter()
    session.add_point_interaction(point, include_interaction=label > 0, class_label=max(label, 1))
    return time.perf_counter() - start


def device_name(session: SAM3DSession) -> str:
    if session.device.type == "cuda":
        return torch.cuda.get_device_name(session.device)
    return f"{torch.get_num_threads()} CPU threads"


# --- corrective clicks ---


def correct_cases(session: SAM3DSession, dataset: Path, cases: list[str]) -> list[tuple]:
    """Click into the middle of the largest error, again and again: a row for each click of each case."""
    ending = session.model.dataset_json["file_ending"]
    reader = session.model.plans.image_reader_writer_class()
    rows = []
    for case in tqdm(cases, desc="Correcting"):
        files = [dataset / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(session.model.channels)]
        truth = reader.read_seg(str(dataset / "labelsTr" / f"{case}{ending}"))[0][0].astype(np.int16)
        if session.model.labels.has_ignore_label:
            truth[truth == session.model.labels.ignore_label] = -1
        session.set_image(*read(session, files))
        mask = np.zeros(truth.shape, np.uint8)
        session.set_target_buffer(mask)
        for number in range(1, max(SHOWN) + 1):
            click = correction_click(mask, truth)
            if click is None:
                break
            point, label = click
            seconds = timed_click(session, point, label)
            score = dice(mask, truth, session.model.labels.foreground_labels)
            rows.append((case, number, *map(int, point), label, round(seconds, 4), round(score, 5)))
    return rows


def dice(mask: np.ndarray, truth: np.ndarray, labels: Sequence[int]) -> float:
    """Mean over the labels that are present."""
    counted = np.where(truth < 0, 0, mask)
    present = [label for label in labels if (truth == label).any()]
    overlaps = [
        2 * np.sum((counted == k) & (truth == k)) / (np.sum(counted == k) + np.sum(truth == k)) for k in present
    ]
    return float(np.mean(overlaps))


def write_csv(rows: list[tuple], file: Path) -> None:
    with whole_file(file) as part, part.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])


def print_curve(rows: list[tuple], file: Path) -> None:
    """Mean Dice over the cases after so many clicks; cases without an error left keep theirs."""
    by_case: dict[str, list[float]] = {}
    for case, *_, score in rows:
        by_case.setdefault(case, []).append(score)
    print(f"\nclicks   mean Dice   least   ({len(by_case)} cases, each click: {file})")
    for count in range(1, max(SHOWN) + 1):
        scores = [s[min(count, len(s)) - 1] for s in by_case.values()]
        bar = "#" * round(50 * np.mean(scores)) if count in SHOWN else ""
        print(f"{count:6d}   {np.mean(scores):9.4f}   {np.min(scores):5.3f}   {bar}")


def read(session: SAM3DSession, files: list[Path]) -> tuple[np.ndarray, dict]:
    """Array (C, D, H, W) and properties, the spacing in the order of its axes."""
    return session.model.plans.image_reader_writer_class().read_images([str(file) for file in files])


if __name__ == "__main__":
    main()
