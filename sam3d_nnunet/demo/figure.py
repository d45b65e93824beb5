"""The picture at the end of the demo: truth, click and masks of a few validation cases."""

from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.demo.layout import DemoFolder
from sam3d_nnunet.demo.phantom import ENDING, image_geometry, read_manifest, world_grid
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.prompts.files import read_prompt

WINDOW = (-60, 200)  # HU
TRUTH, LOOKALIKE, MASK, CLICK = "#00e5ff", "#ff5ce0", "#ff8c1a", "#ffffff"


def draw_figure(demo: DemoFolder, path: Path) -> None:
    """Write a PNG: two cases with a look-alike and one without, one row each, one column per method."""
    cases = _choose(demo)
    columns = ["image and click", *demo.predictions]
    # without pyplot, which would keep the figure and look for a screen
    figure = Figure(figsize=(2.6 * len(columns), 2.6 * len(cases) + 1.0), layout="constrained")
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    for row, (case, kind) in zip(axes, cases.items()):
        _draw_row(row, demo, case)
        row[0].set_ylabel(kind, fontsize=11)
    for axis, title in zip(axes[0], columns):
        axis.set_title(f"{title}\n{axis.get_title()}".strip(), fontsize=11)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    with matplotlib.rc_context({"savefig.facecolor": "white"}):
        figure.savefig(path, dpi=110)


def _choose(demo: DemoFolder) -> dict[str, str]:
    """The first validation cases of each kind, with what they show."""
    contents = read_manifest(demo.dataset)
    folder = list(demo.predictions.values())[-1]
    names = sorted(f.name.removesuffix(ENDING) for f in folder.glob(f"*{ENDING}"))
    with_lookalike = [n for n in names if contents[n].lookalike is not None]
    alone = [n for n in names if contents[n].lookalike is None]
    return {n: "with look-alike" for n in with_lookalike[:2]} | {n: "lesion alone" for n in alone[:1]}


def _draw_row(row: np.ndarray, demo: DemoFolder, case: str) -> None:
    image = sitk.ReadImage(str(demo.dataset / "imagesTr" / f"{case}_0000{ENDING}"))
    truth = _read(demo.dataset / "labelsTr" / f"{case}{ENDING}")
    click = image_geometry(image).to_voxels(read_prompt(list(demo.predictions.values())[-1] / f"{case}.json").points)[0]
    index = round(click[0])
    ratio = image.GetSpacing()[1] / image.GetSpacing()[0]
    for axis in row:
        axis.imshow(sitk.GetArrayViewFromImage(image)[index], cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=ratio)
        axis.set(xticks=[], yticks=[])
    for axis, folder in zip(row[1:], demo.predictions.values()):
        mask = _read(folder / f"{case}{ENDING}")
        axis.contourf(mask[index], levels=[0.5, 1.5], colors=[MASK], alpha=0.55)
        axis.set_title(f"Dice {_dice(mask, truth):.2f}", fontsize=11)
    for axis in row:
        axis.contour(truth[index], levels=[0.5], colors=[TRUTH], linewidths=1.5)
    lookalike = read_manifest(demo.dataset)[case].lookalike
    if lookalike is not None:
        unlabelled = lookalike.mask(world_grid(image))
        row[0].contour(unlabelled[index], levels=[0.5], colors=[LOOKALIKE], linewidths=1.5, linestyles="dashed")
    for axis in (row[0], row[-1]):
        axis.plot(click[2], click[1], "*", color=CLICK, markeredgecolor="black", markersize=13)


def _read(file: Path) -> np.ndarray:
    return read_label_map(file, SimpleITKIO()).array


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Of the whole volume."""
    return 2 * np.sum((mask == 1) & (truth == 1)) / (np.sum(mask == 1) + np.sum(truth == 1))


def _legend() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=TRUTH, linewidth=2, label="lesion (truth)"),
        Line2D([], [], color=LOOKALIKE, linewidth=2, linestyle="dashed", label="look-alike, not labelled"),
        Patch(color=MASK, alpha=0.55, label="predicted mask"),
        Line2D([], [], linestyle="", marker="*", color=CLICK, markeredgecolor="black", markersize=13, label="click"),
    ]
