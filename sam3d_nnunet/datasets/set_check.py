"""Check the cases of a data set against each other: orientations, sizes of voxels, labels, equal images."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from sam3d_nnunet.datasets.case_check import CaseReport
from sam3d_nnunet.datasets.description import label_values
from sam3d_nnunet.datasets.faults import SHOWN, Fault, first_sentence
from sam3d_nnunet.datasets.file_check import IMAGES, TEST_IMAGES
from sam3d_nnunet.datasets.spacing import DEFAULT, describe_finer, isotropic_spacing, refuse_flat_images
from sam3d_nnunet.datasets.splits import Splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.image_grid import ImageGrid
from sam3d_nnunet.io import listing


def check_geometries(reports: Mapping[str, CaseReport]) -> Iterator[Fault]:
    """Compare orientations and sizes of voxels of training images."""
    read = {case: report for case, report in reports.items() if report.grid is not None}
    if read:
        yield from _check_orientations(read)
        yield from _check_default_headers(read)
        yield from _check_target_spacing({case: report.grid for case, report in read.items()})


def _check_target_spacing(grids: Mapping[str, ImageGrid]) -> Iterator[Fault]:
    """What planning will say about images that are flat or finely resolved."""
    shapes, spacings = [grid.shape for grid in grids.values()], [grid.spacing for grid in grids.values()]
    if (np.median(shapes, axis=0) == 1).any():
        yield Fault(True, "images", "they are 2-D", "SAM3DPlanner needs volumes; use nnU-Net's own planner")
        return
    side = isotropic_spacing(spacings)
    if side != DEFAULT:
        todo = f"SAM3DPlanner takes {side:g} mm instead; -overwrite_target_spacing sets another size"
        yield Fault(False, "images", first_sentence(describe_finer(spacings, side)), todo)
    try:
        refuse_flat_images(list(grids), shapes, spacings, [side] * 3)
    except SAM3DError as e:
        todo = "correct the size of voxels in its header, remove it, or plan with a finer -overwrite_target_spacing"
        yield Fault(True, "images", first_sentence(e), todo)


def _check_orientations(reports: Mapping[str, CaseReport]) -> Iterator[Fault]:
    codes = {case: report.grid.geometry.orientation for case, report in reports.items()}
    (most, count), *others = Counter(codes.values()).most_common()
    for case, code in codes.items() if others else ():
        if code != most:
            found = (
                f"the image is turned against most others, of which {count} are {most}, and nnU-Net does not turn it"
            )
            todo = 'turn the files, or write "overwrite_image_reader_writer": "SimpleITKIOWithReorient" in dataset.json'
            yield Fault(False, case, found, todo, code)


def _check_default_headers(reports: Mapping[str, CaseReport]) -> Iterator[Fault]:
    """Find headers of programs that know no geometry, unless the other images have voxels of 1 mm, too."""
    others = [report.grid.geometry.spacing for report in reports.values() if not report.is_default]
    if others and np.allclose(np.median(others, axis=0), 1, rtol=0.01):
        return
    for case, report in reports.items():
        if report.is_default:
            found = "the header says 1 x 1 x 1 mm at the origin, as where the size of voxels is lost"
            yield Fault(False, case, found, "check it, and write the right size into image and label map")


def check_labels(reports: Mapping[str, CaseReport], labels: Mapping[str, int | list[int]] | None) -> Iterator[Fault]:
    """Find labels that no label map holds.

    Args:
        reports: of training cases.
        labels: of dataset.json; None: not known.
    """
    present = [report.labels for report in reports.values() if report.labels is not None]
    if not present:
        return
    there = set().union(*present)
    expected = {} if labels is None else {n: v for n, v in labels.items() if n not in ("background", "ignore")}
    ignored = {} if labels is None else {labels.get("ignore")}
    if not there - {0} - set(ignored):
        yield Fault(True, "label maps", "none holds foreground", "correct them")
        return
    for name, value in expected.items():
        if not there & set(label_values({name: value})):
            found = "no label map that can be read holds this label"
            yield Fault(False, f"label {name}", found, "remove it from dataset.json, or correct the label maps")


def check_twins(reports: Mapping[str, CaseReport], splits: Collection[Splits]) -> Iterator[Fault]:
    """Find images that two cases share. Where one is trained on and the other measured, scores are too good.

    Args:
        reports: of training cases by name, and of test cases by folder and name.
        splits: of each file of folds; none: nnU-Net will draw them.
    """
    twins = defaultdict(list)
    for case, report in reports.items():
        if report.voxels is not None:
            twins[report.voxels].append(case)
    for cases in twins.values():
        if len(cases) == 1:
            continue
        found, todo = f"the cases {listing(cases, SHOWN)} have the same image", "remove all but one, unless it is meant"
        if apart := _may_lie_apart(set(cases), splits):
            found += ", so one may be trained on and another measured"
            todo = "remove all but one, or keep them together in train or in val of each fold of splits_final.json"
            if any(_is_test(case) for case in cases):
                todo = f"remove it from {IMAGES} or {TEST_IMAGES}"
        yield Fault(apart, cases[0], found, todo)


def _is_test(case: str) -> bool:
    return case.startswith(f"{TEST_IMAGES}/")


def _may_lie_apart(cases: set[str], splits: Collection[Splits]) -> bool:
    """Whether some of the cases are trained on where others are measured: in a fold, or in the test set."""
    tests = {case for case in cases if _is_test(case)}
    if tests:
        return tests != cases
    folds = [fold for file in splits for fold in file]
    return not folds or any(cases & {*fold["train"]} and cases & {*fold["val"]} for fold in folds)
