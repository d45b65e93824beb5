"""Does a click select one of three equal lesions? Trains SAM3DAdapterTrainer_tiny_clicked on phantoms, then predicts.

Example: python benchmarks/click_selection.py phantoms
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from sam3d_nnunet.nnunet.registration import EXT_FOLDER
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

SIZE, RADIUS, DISTANCE = 32, 4.2, 11.0  # voxels
NAME = "Dataset981_ThreeLesions"
TRAINER = "SAM3DAdapterTrainer_tiny_clicked"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Example: python benchmarks/click_selection.py phantoms"
    )
    parser.add_argument("folder", type=Path, help="new folder to work in; kept")
    parser.add_argument("--train", type=int, default=40, help="training cases")
    parser.add_argument("--test", type=int, default=20, help="new cases to predict")
    arguments = parser.parse_args()
    root = arguments.folder.absolute()
    if root.exists():
        parser.error(f"{root} exists already; give a new folder")
    rng = np.random.default_rng(0)
    write_training_set(root / "raw" / NAME, arguments.train, rng)
    centres = write_test_set(root, arguments.test, rng)
    run(root, "sam3d", "plan", "-d", "981")
    run(root, "nnUNetv2_preprocess", "-d", "981", "-plans_name", "SAM3DPlans", "-c", "3d_fullres", "-np", "2")
    run(root, "nnUNetv2_train", "981", "3d_fullres", "all", "-p", "SAM3DPlans", "-tr", TRAINER, "-device", "cpu")
    model = root / "results" / NAME / f"{TRAINER}__SAM3DPlans__3d_fullres"
    common = ("-i", str(root / "images"), "-m", str(model), "--device", "cpu")
    run(root, "sam3d", "predict", *common, "-o", str(root / "one"), "--prompts", str(root / "one_click"))
    instances = ("--prompts", str(root / "three_clicks"), "--per-lesion", "--instances")
    run(root, "sam3d", "predict", *common, "-o", str(root / "three"), *instances)
    report(root, centres)


def phantom(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(SIZE, SIZE, SIZE) image with three equal balls, and their centres (3, 3)."""
    centres = np.zeros((0, 3))
    while len(centres) < 3:
        centre = rng.uniform(RADIUS + 1, SIZE - RADIUS - 2, 3)
        if (np.linalg.norm(centres - centre, axis=1) > DISTANCE).all():
            centres = np.concatenate([centres, centre[None]])
    lesions = sum(ball(centre) for centre in centres)
    return 2.0 * lesions + rng.normal(0, 0.6, (SIZE,) * 3), centres


def ball(centre: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, SIZE) bool."""
    return ((np.stack(np.indices((SIZE,) * 3), -1) - centre) ** 2).sum(-1) <= RADIUS**2


def write_training_set(folder: Path, count: int, rng: np.random.Generator) -> None:
    for number in range(count):
        image, centres = phantom(rng)
        write_image(folder / "imagesTr" / f"case_{number:03d}_0000.nii.gz", image.astype(np.float32))
        write_image(folder / "labelsTr" / f"case_{number:03d}.nii.gz", sum(map(ball, centres)).astype(np.uint8))
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": count}))


def write_test_set(root: Path, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images, a click on the first lesion of each, clicks on all three; returns the centres by case."""
    all_centres = {}
    for number in range(count):
        case = f"new_{number:03d}"
        image, centres = phantom(rng)
        write_image(root / "images" / f"{case}_0000.nii.gz", image.astype(np.float32))
        for folder, clicked in (("one_click", centres[:1]), ("three_clicks", centres)):
            (root / folder).mkdir(exist_ok=True)
            world = np.round(clicked)[:, ::-1]  # spacing 1, origin 0
            write_prompt(Prompt(world, np.ones(len(clicked), int), case), root / folder / f"{case}.json")
        all_centres[case] = centres
    return all_centres


def write_image(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def run(root: Path, command: str, *arguments: str) -> None:
    """One of the installed commands, in nnU-Net folders of its own."""
    print("$", command, *arguments, flush=True)
    folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    environment = {name: str(root / folder) for name, folder in folders.items()}
    environment |= {"nnUNet_extTrainer": str(EXT_FOLDER), "OMP_WAIT_POLICY": "PASSIVE", "nnUNet_def_n_proc": "2"}
    if command == "nnUNetv2_train":
        environment["nnUNet_n_proc_DA"] = "0"
    with (root / "log.txt").open("a") as log:
        path = Path(sys.executable).parent / command
        subprocess.run([path, *arguments], env=os.environ | environment, stdout=log, stderr=log, check=True)


def report(root: Path, all_centres: dict[str, np.ndarray]) -> None:
    """Print what one click marks, and how good the instance map of three clicks is."""
    one, instances = [], []
    for case, centres in tqdm(all_centres.items(), desc="Measuring"):
        lesions = [ball(centre) for centre in centres]
        mask = read(root / "one" / f"{case}.nii.gz") > 0
        others = lesions[1] | lesions[2]
        one.append((dice(mask, lesions[0]), (mask & others).sum(), (mask & others).sum() / others.sum()))
        numbers = read(root / "three" / "instances" / f"{case}.nii.gz")
        instances.append([dice(numbers == i + 1, lesion) for i, lesion in enumerate(lesions)])
    clicked, volume, share = np.mean(one, axis=0)
    print(f"\n{len(one)} new cases with three equal lesions of {ball(np.full(3, SIZE / 2)).sum()} voxels")
    print(
        f"one click: Dice of the clicked lesion {clicked:.3f}, {volume:.1f} voxels ({share:.1%}) of the others marked"
    )
    print(f"three clicks: Dice of each instance {np.mean(instances):.3f} (lowest {np.min(instances):.3f})")


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


if __name__ == "__main__":
    main()
