"""The folder of a demo, and what is made of the results in it: a table and a figure."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.demo.phantom import ENDING, image_geometry, read_manifest, world_grid
from sam3d_nnunet.geometry.images import check_image_file
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.io import read_json
from sam3d_nnunet.prompts.files import read_prompt

BASELINE, OURS = "nnUNetTrainer_demo", "SAM3DAdapterTrainer_demo"
WINDOW = (-60, 200)  # HU
TRUTH, LOOKALIKE, MASK, CLICK = "#00e5ff", "#ff5ce0", "#ff8c1a", "#ffffff"


@dataclass(frozen=True)
class DemoFolder:
    """Paths of a demo. They need not exist yet.

    Attributes:
        root: absolute path of the folder.
    """

    root: Path
    number = 1
    name = "Dataset001_Phantom"

    @property
    def environment(self) -> dict[str, str]:
        """nnU-Net's variables, set to folders of the demo."""
        return {v: str(self.root / v) for v in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}

    @property
    def mark(self) -> Path:
        """The file that marks the folder as that of a demo."""
        return self.root / "demo.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, command: str) -> Path:
        """The output of a command."""
        return self.logs / f"{command}.txt"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.json"

    @property
    def table(self) -> Path:
        return self.root / "table.md"

    @property
    def figure(self) -> Path:
        return self.root / "demo.png"

    @property
    def dataset(self) -> Path:
        """The raw data set."""
        return self.root / "nnUNet_raw" / self.name

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.name / "SAM3DPlans_3d_fullres"

    @property
    def splits(self) -> Path:
        """The folds of the data set."""
        return self.root / "nnUNet_preprocessed" / self.name / "splits_final.json"

    def model(self, trainer: str) -> Path:
        """The folder of a trained model."""
        return self.root / "nnUNet_results" / self.name / f"{trainer}__SAM3DPlans__3d_fullres"

    @property
    def predictions(self) -> dict[str, Path]:
        """Name of each method -> folder with its predictions of the validation cases."""
        return {
            "nnU-Net, automatic": self.model(BASELINE) / "fold_0" / "validation",
            "ours, automatic": self.model(OURS) / "fold_0" / "validation",
            "ours, one click": self.model(OURS) / "fold_0" / "validation_1click",
        }


def make_table(demo: DemoFolder) -> str:
    """Mean Dice of the validation cases as a Markdown table, one row per method."""
    scores = {name: read_dice(folder / "summary.json") for name, folder in demo.predictions.items()}
    cases = sorted(next(iter(scores.values())))
    pairs = {name for name, case in read_manifest(demo.dataset).items() if case.lookalike is not None}
    groups = {
        "all": cases,
        "without look-alike": [c for c in cases if c not in pairs],
        "with look-alike": [c for c in cases if c in pairs],
    }
    lines = [
        " | ".join(["| Dice", *(f"{name} ({len(group)} cases)" for name, group in groups.items())]) + " |",
        "|---" + "|---:" * len(groups) + "|",
    ]
    for method, dice in scores.items():
        means = (f"{np.mean([dice[c] for c in group]):.3f}" if group else "-" for group in groups.values())
        lines.append(" | ".join([f"| {method}", *means]) + " |")
    return "\n".join(lines) + "\n"


def read_dice(summary: Path) -> dict[str, float]:
    """Dice of the lesion by case, from nnU-Net's summary.json."""
    cases = read_json(summary)["metric_per_case"]
    return {Path(c["prediction_file"]).name.removesuffix(".nii.gz"): c["metrics"]["1"]["Dice"] for c in cases}


def draw_figure(demo: DemoFolder, path: Path) -> None:
    """Write a PNG with a row per case and a column per method: two cases with a look-alike, one without."""
    cases = _choose(demo)
    columns = ["image and click", *demo.predictions]
    # without pyplot, which keeps figures in memory and needs a screen
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
    """Names of validation cases to draw -> what they show."""
    contents = read_manifest(demo.dataset)
    folder = list(demo.predictions.values())[-1]
    names = sorted(f.name.removesuffix(ENDING) for f in folder.glob(f"[!.]*{ENDING}"))
    with_lookalike = [n for n in names if contents[n].lookalike is not None]
    alone = [n for n in names if contents[n].lookalike is None]
    return {n: "with look-alike" for n in with_lookalike[:2]} | {n: "lesion alone" for n in alone[:1]}


def _draw_row(row: np.ndarray, demo: DemoFolder, case: str) -> None:
    file = demo.dataset / "imagesTr" / f"{case}_0000{ENDING}"
    check_image_file(file)
    image = sitk.ReadImage(str(file))
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
    return 2 * np.sum((mask == 1) & (truth == 1)) / (np.sum(mask == 1) + np.sum(truth == 1))


def _legend() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=TRUTH, linewidth=2, label="lesion (truth)"),
        Line2D([], [], color=LOOKALIKE, linewidth=2, linestyle="dashed", label="look-alike, not labelled"),
        Patch(color=MASK, alpha=0.55, label="predicted mask"),
        Line2D([], [], linestyle="", marker="*", color=CLICK, markeredgecolor="black", markersize=13, label="click"),
    ]
