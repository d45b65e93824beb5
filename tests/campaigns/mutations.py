"""Mutated files of users through the commands that read them: data sets, folds, recipes, plans, clicks and images."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from good_files import (
    BEFORE,
    CASES,
    NAME,
    NUMBER,
    begun,
    clicks,
    decathlon,
    decathlon_file,
    description,
    fingerprint,
    folds,
    given_image,
    image,
    listed,
    pickled,
    planned,
    recipe,
    sarcomas,
    segmentation,
    settings,
)
from mutation_runner import Kind, campaign, sam3d
from mutators import (
    mutated_header_text,
    mutated_json,
    mutated_nifti,
    mutated_pickle,
    mutated_png,
    mutated_table,
    mutated_tiff,
    within_gzip,
)
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.planning.fingerprint import clipping_window
from sam3d_nnunet.prediction.batch import plan_cases  # noqa: F401  (imported before processes are forked)
from sam3d_nnunet.prediction.predictor import SAM3DPredictor  # noqa: F401
from sam3d_nnunet.prompts.files import check_prompt, find_prompts, read_prompt
from sam3d_nnunet.workflow.benchmark import Benchmark  # noqa: F401

NIFTI = (mutated_nifti,)
GZIPPED = tuple(map(within_gzip, NIFTI))
IMAGES = {
    ".nii.gz": (SimpleITKIO, GZIPPED),
    ".nii": (NibabelIO, NIFTI),
    ".nrrd": (SimpleITKIO, (mutated_header_text,)),
    ".mha": (SimpleITKIO, (mutated_header_text,)),
    ".gipl": (SimpleITKIO, ()),
    ".tif": (Tiff3DIO, (mutated_tiff,)),
    ".png": (NaturalImage2DIO, (mutated_png,)),
}
"""By ending: nnU-Net's reader, and mutators."""


def command(*arguments: object) -> Callable[[Path], None]:
    """A command; arguments that begin with @ are paths in the folder."""

    def read(work: Path) -> None:
        sam3d(*(work / a[1:] if isinstance(a, str) and a.startswith("@") else a for a in arguments))

    return read


def plan_with_settings(work: Path) -> None:
    text = os.fsdecode((work / "settings.json").read_bytes()).replace("\0", "")  # no argument holds a NUL
    sam3d("plan", "-d", NUMBER, f"--settings={text}")


def clipped(work: Path) -> None:
    clipping_window(RawDataset.find(NUMBER))


def read_clicks(work: Path) -> None:
    """As `sam3d predict` does, without its network."""
    (file,) = (work / "images").iterdir()
    case = file.name.removesuffix("_0000.nii.gz")
    geometry = ImageGeometry.from_file(file)
    for place in (work / "clicks", next((work / "clicks").iterdir())):
        prompt = read_prompt(find_prompts(place, [case])[case], geometry, case, {"background": 0, "ball": 1})
    check_prompt(prompt, geometry, read_image([file], SimpleITKIO())[0].shape[1:], (0, 1, 2))


def read_volume(ending: str, work: Path) -> None:
    """As all commands read an image."""
    file = work / "raw" / NAME / "imagesTr" / f"{CASES[1]}_0000{ending}"
    _, properties = read_image([file], IMAGES[ending][0]())
    ImageGeometry.from_file(file, properties)


def read_labels(ending: str, work: Path) -> None:
    """As all commands read a label map."""
    label_map = read_label_map(work / "raw" / NAME / "labelsTr" / f"{CASES[1]}{ending}", IMAGES[ending][0]())
    label_map.check_on(label_map.own_grid())


DOCTOR = command("doctor", NUMBER)
SHOW = command("splits", "show", "-d", NUMBER)
DRAW = command("prompts", "-d", NUMBER, "-f", 0, "-o", "@results", "--protocol", "volume_1")
TARGET = command("dataset", "target", "-d", NUMBER, "--label", "ball", "-o", 320)
PLAN = command("plan", "-d", NUMBER)
EVALUATE = command(
    *("evaluate", "-d", NUMBER, "-f", 0, "-o", "@results", "--name", "Others", "--predictions", "@predictions")
)
BENCHMARK = command("benchmark", "@recipe.json", "-d", NUMBER, "-o", "@results", "--device", "cpu", "--dry-run")
PREDICT = ("predict", "-i", "@images", "-o", "@out", "-m", BEFORE / "model", "--device", "cpu", "--disable_tta")
CONVERT = command("dataset", "convert", "@Task99_Ball", "-d", NUMBER, "--layout", "msd")
CONVERT_NAMED = command("dataset", "convert", "@Task99_Ball", "-d", NAME, "--layout", "msd")
FETCH = command(*("dataset", "fetch", "sts", "-d", NUMBER, "--from", "@copy", "--accept-licence", "--allow-missing"))


def kinds() -> Iterator[tuple[str, Kind]]:
    """All of them, by name."""
    tree, table, gzipped = (mutated_json,), (mutated_table,), GZIPPED
    case = tuple(CASES)
    plan = command("plan", "-d", NUMBER, "--recipe", "@recipe.json")
    region = command("dataset", "target", "-d", NUMBER, "--label", "all", "-o", 320)
    readers = {"doctor": DOCTOR, "splits show": SHOW, "prompts": DRAW, "target": region, "plan": PLAN}
    for name, read in (readers | {"evaluate": EVALUATE}).items():
        share = 1 if name in ("plan", "evaluate") else 3
        yield f"dataset.json: {name}", Kind(description, read, tree, ("dataset.json", NAME), share)
    for name, read in (readers | {"target": TARGET}).items():
        yield f"dataset.json with a list: {name}", Kind(listed, read, tree, ("dataset.json", NAME, *case))
    for name, read in {"doctor": DOCTOR, "splits show": SHOW, "prompts": DRAW, "target": TARGET}.items():
        yield f"splits_final.json: {name}", Kind(folds, read, tree, case, share=2)
    yield "splits_final.json: evaluate", Kind(folds, EVALUATE, tree, case)
    show = command("splits", "show", f"@preprocessed/{NAME}/splits_final.json")
    yield "splits_final.json: splits show FILE", Kind(folds, show, tree, share=3)
    yield "recipe: plan", Kind(recipe, plan, tree, ("recipe", "plans"), share=3)
    yield "recipe: benchmark", Kind(recipe, BENCHMARK, tree, ("recipe", "method"), share=3)
    yield "--settings: plan", Kind(settings, plan_with_settings, tree, ("--settings", "block 'sam3d'"), share=2)
    yield "plans: benchmark", Kind(planned, BENCHMARK, tree, share=3)
    yield "fingerprint: plan", Kind(fingerprint, PLAN, tree, (NAME,), share=2)
    yield "fingerprint: clipping window", Kind(fingerprint, clipped, tree, share=3)
    for kind, mutators in {"json": tree, "slicer": tree, "csv": table, "tsv": table, "fcsv": table}.items():
        make = partial(clicks, kind)
        yield f"clicks ({kind}): read", Kind(make, read_clicks, mutators, ("click",), share=8)
        yield f"clicks ({kind}): predict", Kind(make, command(*PREDICT, "--prompts", "@clicks"), mutators, share=0.1)
    for ending, (_, mutators) in IMAGES.items():
        for part, read in (("imagesTr", read_volume), ("labelsTr", read_labels)):
            make = partial(image, ending, part)
            what = "image" if part == "imagesTr" else "label map"
            yield f"{what} {ending}: read", Kind(make, partial(read, ending), mutators, ("image's header",), share=6)
            yield f"{what} {ending}: doctor", Kind(make, DOCTOR, mutators, ("case_", "images"), good=ending != ".png")
    for part in ("imagesTr", "labelsTr"):
        make, what = partial(image, ".nii.gz", part), "image" if part == "imagesTr" else "label map"
        for name, read in {"plan": PLAN, "prompts": DRAW, "target": TARGET}.items():
            yield f"{what} .nii.gz: {name}", Kind(make, read, gzipped, case, share=0.3)
    yield "image: predict", Kind(given_image, command(*PREDICT, "--prompts", "@clicks"), gzipped, ("ball_json",), 0.3)
    yield "segmentation: predict", Kind(segmentation, command(*PREDICT, "--refine-from", "@found"), gzipped, share=0.3)
    yield (
        "folds (.pkl): splits import",
        Kind(pickled, command("splits", "import", "@folds.pkl", "-d", NUMBER), (mutated_pickle,), share=3),
    )
    yield (
        "folds (.pkl): splits show",
        Kind(pickled, command("splits", "show", "@folds.pkl"), (mutated_pickle,), share=3),
    )
    yield "Decathlon's dataset.json: convert", Kind(decathlon, CONVERT, tree, (*case, "Task99_Ball"), share=2)
    for part in ("imagesTr", "labelsTr"):
        yield f"Decathlon's {part}: convert", Kind(partial(decathlon_file, part), CONVERT, gzipped, share=2)
    yield "conversion.json: convert", Kind(begun, CONVERT_NAMED, tree, (NAME,))
    yield "fetched dataset.json: fetch", Kind(partial(sarcomas, "dataset.json"), FETCH, tree)
    for part in ("image", "mask"):
        yield f"sarcomas' {part}: fetch", Kind(partial(sarcomas, part), FETCH, gzipped, ("PET_",))


KINDS = dict(kinds())

if __name__ == "__main__":
    sys.exit(campaign(KINDS, __doc__))
