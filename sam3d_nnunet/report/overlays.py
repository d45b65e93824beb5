"""Draw slices of a case with truth, predictions and clicks on top."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sam3d_nnunet.report.case_images import CaseImage
from sam3d_nnunet.report.style import target_colour

NEAR_MM = 10.0  # clicks further away from the slice are counted, not drawn
MARGIN_MM = 25.0  # width of the image shown around masks and clicks
CT_WINDOW = (-160, 240)  # HU, soft tissue
WINDOW = (1, 99.5)  # for other images: percentiles of the part that is shown
LINE = 0.165  # height of a line of text in inches
WIDTH = 2.4  # width of a panel in inches

Targets = dict[str, tuple[int, ...]]
"""Label values of each target, by its name."""


@dataclass(frozen=True)
class Panel:
    """One picture of a figure.

    Attributes:
        title: text above the picture.
        index: of the slice.
        mask: (h, w) predicted label map of that slice; None shows the truth alone.
        clicks: (N, 3) voxel coordinates (d, h, w) of all clicks that were given.
        labels: (N,) labels of the clicks.
    """

    title: str
    index: int
    mask: np.ndarray | None = None
    clicks: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))


def largest_slice(truth: np.ndarray, targets: Targets, clicks: np.ndarray) -> int:
    """Slice with the largest area of all targets; without targets, the slice with the most clicks."""
    foreground = np.isin(truth, [label for labels in targets.values() for label in labels])
    if foreground.any():
        return int(foreground.sum(axis=(1, 2)).argmax())
    return most_clicked_slice(truth.shape[0], clicks)


def most_clicked_slice(depth: int, clicks: np.ndarray) -> int:
    """Slice with the most clicks, the lowest of several; without clicks, the middle slice."""
    if not len(clicks):
        return depth // 2
    return int(np.bincount(np.rint(clicks[:, 0]).clip(0, depth - 1).astype(int)).argmax())


def draw_panels(case: CaseImage, targets: Targets, rows: list[list[Panel]]) -> Figure:
    """Panels side by side, all with the same part of the image and the same grey-value window.

    Args:
        case: image and truth.
        targets: drawn in one colour each.
        rows: of panels; rows may differ in length.
    """
    panels = [panel for row in rows for panel in row]
    box = _box(case, targets, panels)
    window = _window(case, panels, box)
    columns = max(map(len, rows))
    legend = _legend(targets, any(len(p.clicks) for p in panels))
    size = [(s.stop - s.start) * mm for s, mm in zip(box, case.view.spacing[1:])]
    columns_of_legend = min(columns, -(-len(legend) // 2))  # truth above prediction
    lines = sum(3 + max(p.title.count("\n") for p in row) + 1 for row in rows)
    lines += -(-len(legend) // columns_of_legend) + 1
    height = len(rows) * WIDTH * size[0] / size[1] + lines * LINE
    # pyplot would keep the figure in memory and look for a screen
    figure = Figure(figsize=(WIDTH * columns + 0.3, height), layout="compressed")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, row in zip(grid, rows):
        for axis, panel in zip(axes, row):
            _draw(axis, case, targets, panel, box, window)
        for axis in axes[len(row) :]:
            axis.axis("off")
    figure.legend(handles=legend, loc="outside lower center", ncols=columns_of_legend, frameon=False)
    return figure


def _draw(
    axis: Axes, case: CaseImage, targets: Targets, panel: Panel, box: tuple[slice, slice], window: tuple[float, float]
) -> None:
    aspect = case.view.spacing[1] / case.view.spacing[2]
    axis.imshow(
        case.image[panel.index], cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="nearest"
    )
    for place, labels in enumerate(targets.values()):
        truth = np.isin(case.truth[panel.index], labels)
        mask = truth if panel.mask is None else np.isin(panel.mask, labels)
        axis.imshow(
            np.ma.masked_where(~mask, mask),
            cmap=ListedColormap([target_colour(place)]),
            alpha=0.5,
            aspect=aspect,
            interpolation="nearest",
        )
        if truth.any():
            axis.contour(truth, levels=[0.5], colors=["black"], linewidths=2.2)
            axis.contour(truth, levels=[0.5], colors=[target_colour(place)], linewidths=1.2)
    _draw_clicks(axis, case, targets, panel)
    axis.set(
        title=panel.title,
        xticks=[],
        yticks=[],
        xlim=(box[1].start - 0.5, box[1].stop - 0.5),
        ylim=(box[0].stop - 0.5, box[0].start - 0.5),
    )


def _draw_clicks(axis: Axes, case: CaseImage, targets: Targets, panel: Panel) -> None:
    near = _near(case, panel)
    for click, label in zip(panel.clicks[near], panel.labels[near]):
        on_slice = abs(click[0] - panel.index) <= 0.5
        axis.plot(
            click[2],
            click[1],
            linestyle="",
            marker="*" if label else "X",
            markersize=13 if label else 9,
            color=_click_colour(targets, label),
            markeredgecolor="black",
            alpha=1.0 if on_slice else 0.5,
        )
    note = f"slice {panel.index + 1} of {len(case.image)}"
    if len(near) - near.sum():
        note += f"; {len(near) - near.sum()} of {len(near)} clicks\nmore than {NEAR_MM:g} mm away"
    axis.set_xlabel(note, fontsize=8)


def _near(case: CaseImage, panel: Panel) -> np.ndarray:
    return np.abs(panel.clicks[:, 0] - panel.index) * case.view.spacing[0] <= NEAR_MM


def _click_colour(targets: Targets, label: int) -> str:
    """Colour of the smallest target with this label; white for the background, and if there is only one target."""
    holding = [name for name, labels in targets.items() if label in labels]
    if not holding or len(targets) == 1:
        return "white"
    return target_colour(list(targets).index(min(holding, key=lambda name: len(targets[name]))))


def _box(case: CaseImage, targets: Targets, panels: list[Panel]) -> tuple[slice, slice]:
    """Rows and columns to show: a square around all masks and clicks, with a margin, inside the image."""
    labels = [label for of_target in targets.values() for label in of_target]
    points = [np.empty((0, 2))]
    for panel in panels:
        points.append(np.argwhere(np.isin(case.truth[panel.index], labels)))
        points.append(np.argwhere(np.isin(panel.mask, labels)) if panel.mask is not None else points[0])
        points.append(panel.clicks[_near(case, panel), 1:])
    shape, spacing = np.array(case.image.shape[1:]), case.view.spacing[1:]
    found = np.concatenate(points)
    if not len(found):
        return slice(0, shape[0]), slice(0, shape[1])
    lower, upper = found.min(axis=0), found.max(axis=0) + 1
    side = ((upper - lower) * spacing).max() + 2 * MARGIN_MM
    size = np.minimum(np.ceil(side / spacing), shape).astype(int)
    start = np.clip(np.rint((lower + upper - size) / 2), 0, shape - size).astype(int)
    return slice(start[0], start[0] + size[0]), slice(start[1], start[1] + size[1])


def _window(case: CaseImage, panels: list[Panel], box: tuple[slice, slice]) -> tuple[float, float]:
    """Grey values that are drawn black and white."""
    if case.is_ct:
        return CT_WINDOW
    return tuple(np.percentile([case.image[panel.index][box] for panel in panels], WINDOW))


def _legend(targets: Targets, clicks: bool) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for place, name in enumerate(targets):
        handles.append(Line2D([], [], color=target_colour(place), linewidth=2, label=f"{name}, truth"))
        handles.append(Patch(color=target_colour(place), alpha=0.5, label=f"{name}, predicted"))
    if clicks:
        look = {"linestyle": "", "marker": "*", "markersize": 11, "color": "white", "markeredgecolor": "black"}
        handles.append(Line2D([], [], **look, label="click"))
        handles.append(Line2D([], [], **look, alpha=0.5, label=f"click up to {NEAR_MM:g} mm off the slice"))
    return handles
