"""Good files for the campaign of mutated files: each function writes one into an empty folder, with all around it."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from mutation_runner import sam3d
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.prompts.files import read_prompt

BEFORE = Path(__file__).parents[1] / "data" / "before"
NAME, NUMBER = "Dataset220_Some", "220"
CASES = [f"case_{number}" for number in range(5)]
SIZE = 12


def ball(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map."""
    labels = np.linalg.norm(np.indices((SIZE,) * 3).T - SIZE / 2, axis=-1) < 4
    return np.random.default_rng(seed).normal(100, 10, labels.shape) + 50 * labels, labels.astype(np.uint8)


def write_image(array: np.ndarray, file: Path) -> None:
    """With a spacing that is not 1, where the format has one."""
    if file.suffix == ".png":
        NaturalImage2DIO().write_seg(array[None, SIZE // 2].astype(np.uint8), str(file), {})
    elif file.suffix == ".tif":
        Tiff3DIO().write_seg(array.astype(np.uint8), str(file), {"spacing": (1.5, 1, 1)})
    else:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1, 1, 1.5))
        sitk.WriteImage(image, str(file))


def dataset(folder: Path, ending: str = ".nii.gz", channel: str = "CT") -> Path:
    """A planned data set of five cases; returns its folder in nnUNet_raw."""
    raw, done = folder / "raw" / NAME, folder / "preprocessed" / NAME
    for place in (raw / "imagesTr", raw / "labelsTr", done, folder / "models"):
        place.mkdir(parents=True)
    for number, case in enumerate(CASES):
        image, labels = ball(number)
        write_image(image.astype(np.int16), raw / "imagesTr" / f"{case}_0000{ending}")
        write_image(labels, raw / "labelsTr" / f"{case}{ending}")
        if ending == ".tif":
            (raw / "imagesTr" / f"{case}_0000.json").rename(raw / "imagesTr" / f"{case}.json")
    shutil.copytree(raw / "labelsTr", done / "gt_segmentations")
    labels = {"background": 0, "ball": 1}
    description = {"channel_names": {"0": channel}, "labels": labels, "numTraining": 5, "file_ending": ending}
    write(raw / "dataset.json", description)
    write(done / "splits_final.json", [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:3], "val": CASES[3:]}])
    names = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")
    intensities = {"0": dict(zip(names, (150.0, 150.0, 10.0, 100.0, 200.0, 110.0, 190.0)))}
    fingerprint = {
        "spacings": [[1.5, 1.0, 1.0]] * 5,
        "shapes_after_crop": [[SIZE] * 3] * 5,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": intensities,
    }
    write(done / "dataset_fingerprint.json", fingerprint)
    return raw


def write(file: Path, content: object) -> Path:
    file.write_text(json.dumps(content))
    return file


def description(folder: Path) -> Path:
    """dataset.json, with all keys that are read."""
    file = dataset(folder) / "dataset.json"
    (folder / "predictions").mkdir()
    for case in CASES:
        shutil.copy(file.parent / "labelsTr" / f"{case}.nii.gz", folder / "predictions")
    labels = {"background": 0, "all": [1, 2], "core": 2, "ignore": 3}
    more = {"labels": labels, "regions_class_order": [1, 2], "overwrite_image_reader_writer": "SimpleITKIO"}
    return write(file, json.loads(file.read_text()) | more)


def listed(folder: Path) -> Path:
    """dataset.json that lists its files."""
    file = dataset(folder) / "dataset.json"
    files = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in CASES}
    return write(file, json.loads(file.read_text()) | {"dataset": files})


def folds(folder: Path) -> Path:
    description(folder)
    (folder / "raw" / NAME / "dataset.json").unlink()
    shutil.copy(simple(folder), folder / "raw" / NAME / "dataset.json")
    return folder / "preprocessed" / NAME / "splits_final.json"


def simple(folder: Path) -> Path:
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "ball": 1}, "numTraining": 5}
    return write(folder / "simple.json", content | {"file_ending": ".nii.gz"})


def recipe(folder: Path) -> Path:
    """A recipe with all keys."""
    dataset(folder)
    block = {
        "preset": "tiny",
        "stride": 4,
        "batch_size": 1,
        "num_epochs": 1,
        "steps_per_epoch": 2,
        "validation_steps": 1,
        "seed": 1,
        "clicks": {"policy": "default", "mask_share": 0.1},
        "optimizer": {"lr": 0.001},
        "networks": {"SwinUNETRTrainer": {"feature_size": 12}},
        "deep_prompt_levels": [2],
    }
    methods = [
        {"name": "ours", "trainer": "SAM3DAdapterTrainer", "plans": "SAM3DPlans", "sam3d": {"num_epochs": 2}},
        {"name": "nnU-Net", "trainer": "nnUNetTrainer", "plans": "nnUNetPlans"},
    ]
    benchmark = {"methods": methods, "folds": [0], "protocols": ["automatic", "volume_1"], "trials": 2}
    content = {
        "description": "A trial.",
        "target": {"names": ["ball"], "drop_empty": True},
        "target_spacing": [1.0, 1.0, 1.0],
        "patch_size": [16, 16, 16],
        "sam3d": block,
        "benchmark": benchmark | {"tolerances": [5.0], "baseline": "nnU-Net", "seeds": [1, 2], "windows": "follow"},
    }
    return write(folder / "recipe.json", content)


def settings(folder: Path) -> Path:
    dataset(folder)
    return write(folder / "settings.json", json.loads(recipe_block()))


def recipe_block() -> str:
    return '{"preset": "tiny", "clicks": {"policy": "paper"}, "optimizer": {"lr": 0.001}, "num_epochs": 3}'


def planned(folder: Path) -> Path:
    """Plans of ours, beside the recipe that made them."""
    file = recipe(folder)
    sam3d_quietly("plan", "-d", NUMBER, "--recipe", file)
    content = json.loads(file.read_text())
    content["benchmark"] = {"methods": content["benchmark"]["methods"][:1], "folds": [0]}
    content["benchmark"]["methods"][0].pop("sam3d")
    write(file, content)
    return folder / "preprocessed" / NAME / "SAM3DPlans.json"


def sam3d_quietly(*arguments: object) -> None:
    try:
        sam3d(*arguments)
    except SystemExit as e:
        if e.code:
            raise RuntimeError(f"{arguments} failed") from e


def fingerprint(folder: Path) -> Path:
    dataset(folder)
    return folder / "preprocessed" / NAME / "dataset_fingerprint.json"


def clicks(kind: str, folder: Path) -> Path:
    """Clicks on the golden images."""
    case, ending = {
        "json": ("ball_json", ".json"),
        "slicer": ("ball_slicer", ".mrk.json"),
        "csv": ("ball_csv", ".csv"),
        "tsv": ("ball_csv", ".tsv"),
        "fcsv": ("ball_slicer", ".fcsv"),
    }[kind]
    (folder / "images").mkdir()
    shutil.copy(BEFORE / "images" / f"{case}_0000.nii.gz", folder / "images")
    (folder / "clicks").mkdir()
    file = folder / "clicks" / f"{case}{ending}"
    if kind == "tsv":
        file.write_text((BEFORE / "prompts" / "ball_csv.csv").read_text().replace(",", "\t"))
    elif kind == "fcsv":
        head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
        columns = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
        points = read_prompt(BEFORE / "prompts" / "ball_slicer.mrk.json").points.tolist()
        rows = [f"{n},{x},{y},{z},0,0,0,1,1,1,0,F-{n},label=1,\n" for n, (x, y, z) in enumerate(points)]
        file.write_text(f"{head}# columns = {columns}\n{''.join(rows)}")
    else:
        shutil.copy(BEFORE / "prompts" / file.name, file)
    return file


def image(ending: str, part: str, folder: Path) -> Path:
    """An image or a label map in a data set."""
    raw = dataset(folder, ending)
    return raw / part / (f"{CASES[1]}_0000{ending}" if part == "imagesTr" else f"{CASES[1]}{ending}")


def given_image(folder: Path) -> Path:
    """An image to segment from clicks."""
    clicks("json", folder)
    return folder / "images" / "ball_json_0000.nii.gz"


def segmentation(folder: Path) -> Path:
    """A segmentation to refine."""
    given_image(folder)
    (folder / "found").mkdir()
    return Path(shutil.copy(BEFORE / "predicted" / "ball_json.nii.gz", folder / "found"))


def pickled(folder: Path) -> Path:
    """Folds of the paper's authors."""
    dataset(folder)
    (folder / "preprocessed" / NAME / "splits_final.json").unlink()
    parts = (
        {"train": CASES[:2], "val": CASES[2:3], "test": CASES[3:]},
        {"train": CASES[3:], "val": [], "test": CASES[:3]},
    )
    content = [{p: {c: [f"/a/{c}.nii", f"/b/{c}.nii"] for c in cases} for p, cases in fold.items()} for fold in parts]
    file = folder / "folds.pkl"
    file.write_bytes(pickle.dumps(content))
    return file


def decathlon(folder: Path) -> Path:
    """A task of the Medical Segmentation Decathlon."""
    task = folder / "Task99_Ball"
    for part in ("raw", "preprocessed", "Task99_Ball/imagesTr", "Task99_Ball/labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(CASES[:2]):
        array, labels = ball(number)
        write_image(array.astype(np.int16), task / "imagesTr" / f"{case}.nii.gz")
        write_image(labels, task / "labelsTr" / f"{case}.nii.gz")
    training = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in CASES[:2]]
    about = {"name": "Ball", "description": "A ball", "reference": "none", "licence": "CC0", "release": "1.0"}
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "ball"}, "training": training, "test": []}
    return write(task / "dataset.json", about | content)


def decathlon_file(part: str, folder: Path) -> Path:
    return decathlon(folder).parent / part / f"{CASES[1]}.nii.gz"


def begun(folder: Path) -> Path:
    """The note of an unfinished conversion."""
    task = decathlon(folder).parent
    part = folder / "raw" / f".{NAME}.part"
    part.mkdir()
    source = folder.parent / "work" / task.name  # where it will be
    return write(part / "conversion.json", {"source": str(source), "layout": "msd"})


def sarcomas(part: str, folder: Path) -> Path:
    """A copy of the soft-tissue sarcomas, or what `sam3d dataset fetch` made of one."""
    (folder / "raw").mkdir()
    if part == "dataset.json":
        copy = folder / "copy"
        copy.mkdir()
        content = {"channel_names": {"0": "PET"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 1}
        write(copy / "dataset.json", content | {"file_ending": ".nii.gz"})
        files = ("imagesTr/STS_001_0000.nii.gz", "labelsTr/STS_001.nii.gz")
    else:
        copy, files = folder / "copy", ("STS_001/PET_image.nii.gz", "STS_001/PET_mask.nii.gz")
    for file, array in zip(files, ball()):
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        write_image(array.astype(np.float32 if array.dtype == float else np.uint8), copy / file)
    return copy / part if part == "dataset.json" else copy / files[part == "mask"]
