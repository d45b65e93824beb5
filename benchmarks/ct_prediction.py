"""One click in a CT-sized volume: `sam3d predict` against nnU-Net's own prediction of the same image, on the CPU.

Example: python benchmarks/ct_prediction.py nnUNet_results/Dataset220_KiTS/SAM3DAdapterTrainer__SAM3DPlans__3d_fullres
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sam3d_nnunet.nnunet.registration import EXT_FOLDER

RADII = np.array([25.0, 20.0, 15.0])  # of the lesion, mm
AIR, BODY, LESION, NOISE = -1000, 40, 130, 15  # HU
INTERVAL = 0.2  # seconds between two looks at the memory
MIB = 2**20


@dataclass
class Cost:
    """What a command took.

    Attributes:
        seconds: by the clock.
        memory: MiB, largest at any moment, of all its processes together; what they share counts once.
        output: what it printed.
    """

    seconds: float
    memory: float
    output: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Seconds and memory of sam3d predict with one click and of nnU-Net's prediction of the same image "
        "with the same model, on the CPU of a Linux machine.",
        epilog="Example: python benchmarks/ct_prediction.py MODEL_FOLDER --shape 128 128 150",
    )
    parser.add_argument("model", type=Path, help="model folder of one channel, trained with a SAM3DAdapterTrainer")
    three_voxels = {"type": int, "nargs": 3, "default": (512, 512, 600), "metavar": ("X", "Y", "Z")}
    parser.add_argument("--shape", **three_voxels, help="voxels of the volume; default: 512 512 600")
    three_mm = {"type": float, "nargs": 3, "default": (0.8, 0.8, 1.0), "metavar": ("X", "Y", "Z")}
    parser.add_argument("--spacing", **three_mm, help="mm; default: 0.8 0.8 1")
    parser.add_argument("--fold", default="0", help="default: 0")
    arguments = parser.parse_args()
    if not (arguments.model / "dataset.json").is_file():
        parser.error(f"{arguments.model} is no model folder: it has no dataset.json")
    ending = json.loads((arguments.model / "dataset.json").read_text())["file_ending"]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        click = write_volume(images / f"ct_0000{ending}", np.array(arguments.shape), np.array(arguments.spacing))
        common = ["-i", images, "-m", arguments.model, "-f", arguments.fold, "--disable_tta"]
        shape, spacing = (" x ".join(map(str, numbers)) for numbers in (arguments.shape, arguments.spacing))
        print(f"{shape} voxels of {spacing} mm, no mirroring")
        clicked = ["--click-mm", ",".join(f"{x:.2f}" for x in click), "--device", "cpu"]
        ours = measure("sam3d", "predict", *common, "-o", Path(folder) / "ours", *clicked)
        show("sam3d predict, one click", ours)
        # the windows it looked at: an untrained network's mask grows through many
        print(*(line for line in ours.output.splitlines() if line.startswith("ct:")), sep="\n")
        automatic = ["-device", "cpu", "-npp", "1", "-nps", "1"]
        theirs = measure("nnUNetv2_predict_from_modelfolder", *common, "-o", Path(folder) / "theirs", *automatic)
        show("nnU-Net's prediction", theirs)
        seconds, memory = ours.seconds / theirs.seconds, ours.memory / theirs.memory
        print(f"ours / nnU-Net's: seconds {seconds:.3f}, memory {memory:.2f}")


def write_volume(file: Path, shape: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """A body in air with one lesion in it.

    Args:
        file: to write.
        shape: voxels along x, y, z.
        spacing: mm along x, y, z.

    Returns:
        (x, y, z) the lesion's centre, in LPS millimetres.
    """
    centre = shape * [0.4, 0.5, 0.55]
    x, y, z = (np.arange(n, dtype=np.float32) for n in shape)
    inside = ((x - shape[0] / 2) / (0.45 * shape[0])) ** 2 + ((y[:, None] - shape[1] / 2) / (0.4 * shape[1])) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, NOISE, (shape[1], shape[0]))  # the same in each slice: packs well
    plane = (np.where(inside, BODY, AIR) + noise).astype(np.int16)
    volume = np.repeat(plane[None], shape[2], axis=0)
    planar = ((x - centre[0]) * spacing[0] / RADII[0]) ** 2 + ((y[:, None] - centre[1]) * spacing[1] / RADII[1]) ** 2
    for slice_, height in zip(volume, ((z - centre[2]) * spacing[2] / RADII[2]) ** 2):
        slice_[planar + height < 1] += LESION - BODY
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(spacing.tolist())
    sitk.WriteImage(image, str(file), useCompression=True)
    return centre.round() * spacing


def measure(program: str, *arguments: object) -> Cost:
    """Run a command of this Python's environment, and look at the memory of it and its children all the time."""
    command = [str(Path(sys.executable).parent / program), *map(str, arguments)]
    environment = os.environ | {"nnUNet_extTrainer": str(EXT_FOLDER)}
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output:
        # a session of its own, by which its children are found even after their parent has gone
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        while process.poll() is None:
            peak = max(peak, sum(map(resident, session(process.pid))))
            time.sleep(INTERVAL)
        seconds = time.perf_counter() - start
        output.seek(0)
        printed = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{printed[-3000:]}")
    return Cost(seconds, peak / MIB, printed)


def session(leader: int) -> list[int]:
    """Ids of the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name of the program, in brackets, may hold blanks
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == leader:
            found.append(int(stat.parent.name))
    return found


def resident(process: int) -> int:
    """Bytes in memory; pages shared by n processes count as an n-th."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def show(name: str, cost: Cost) -> None:
    print(f"{name:<28} {cost.seconds:8.1f} s {cost.memory:8.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
