"""Plot the metrics of all cases: against clicks or training cases, as bars, by place of the clicks, against a baseline.

Each case counts once, with the mean over its trials. Whiskers are bootstrap intervals (95 %) over cases.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import metric_name
from sam3d_nnunet.report.selection import Selection
from sam3d_nnunet.report.statistics import mean_interval
from sam3d_nnunet.report.style import method_style, wrap
from sam3d_nnunet.simulation.protocols import FAMILIES, Protocol

DICE = "dice"
MOST_PANELS = 4  # one for each target; more targets are averaged
METHODS_IN_ROW = 4
PANEL = 2.6  # inches
LINE = 0.165  # inches of a line of text


def case_means(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Mean of each case over trials, then over targets. Cases without a defined value are left out."""
    of_target = rows.groupby(["case", "target"])[metric].mean()
    return of_target.groupby("case").mean().dropna()


def plot_against_clicks(selection: Selection) -> Figure:
    """Dice and NSD against the number of clicks. Automatic prediction stands at 0 clicks.

    Raises:
        SAM3DError: no method was measured with two numbers of clicks.
    """
    curves = [(m, iterated, rows) for m in selection.methods for iterated, rows in _curves(selection, m).items()]
    if not any(len(rows) > 1 for *_, rows in curves):
        raise SAM3DError("no method was measured with several numbers of clicks, such as volume_1 and volume_3")
    targets, metrics = _targets(selection.table), _metrics(selection.table)
    figure, grid = _grid(len(targets), len(metrics), (1.25 * PANEL, PANEL))
    for axes, (title, names) in zip(grid, targets.items()):
        for axis, metric in zip(axes, metrics):
            sizes = set()
            for place, (method, iterated, points) in enumerate(curves):
                shift = 0.06 * (place - (len(curves) - 1) / 2)  # whiskers of different methods stay apart
                of_target = {count: rows[rows["target"].isin(names)] for count, rows in points.items()}
                sizes |= _draw_curve(axis, selection, method, iterated, of_target, metric, shift)
            axis.set(title=f"{wrap(title)}\n{_cases(sizes)}", xlabel="clicks", ylabel=metric_name(metric))
            axis.set_xticks(sorted({count for *_, points in curves for count in points}))
            axis.grid(alpha=0.3)
    _legend_below(figure, grid)
    return figure


def plot_against_cases(selection: Selection) -> Figure:
    """Dice against the number of training cases. One column for each protocol, one row for each target.

    Raises:
        SAM3DError: no trainer was measured after trainings with different numbers of cases.
    """
    trained = _by_training_cases(selection)
    if not trained:
        raise SAM3DError("no trainer was measured after trainings with different numbers of cases (training_cases)")
    targets, protocols = _targets(selection.table), selection.protocols
    figure, grid = _grid(len(targets), len(protocols), (1.25 * PANEL, PANEL), sharey=True)
    for axes, (title, names) in zip(grid, targets.items()):
        for axis, protocol in zip(axes, protocols):
            sizes = set()
            for number, methods in enumerate(trained):
                measured = {n: m for n, m in methods.items() if protocol in selection.protocols_of(m)}
                shift = 0.03 * (number - (len(trained) - 1) / 2)  # whiskers of different trainers stay apart
                rows = {n * 2**shift: selection.rows(m, protocol) for n, m in measured.items()}
                of_target = {n: of_size[of_size["target"].isin(names)] for n, of_size in rows.items()}
                most = methods[max(methods)]
                sizes |= _draw_curve(axis, selection, most, False, of_target, DICE, 0)
            axis.set(xscale="log", title=f"{wrap(title)}, {protocol.name}\n{_cases(sizes)}", ylabel="Dice")
            ticks = sorted({n for methods in trained for n in methods})
            axis.set_xticks(ticks, list(map(str, ticks)))
            axis.set_xticks([], minor=True)
            axis.set_xlabel("training cases")
            axis.grid(alpha=0.3)
    _legend_below(figure, grid)
    return figure


def _by_training_cases(selection: Selection) -> list[dict[int, str]]:
    """The methods of each trainer by the number of their training cases, where `training_cases` gives several numbers.

    A method that was trained on all cases is one of them if it is the only one. Otherwise nothing says which belongs to
    the others.
    """
    part: dict[str, dict[int, str]] = {}
    whole: dict[str, list[str]] = {}
    for method in selection.methods:
        facts = selection.results.methods[method]
        if (cases := facts.get("training_cases")) is None:
            whole.setdefault(facts.get("trainer"), []).append(method)
        else:
            part.setdefault(facts.get("trainer"), {}).setdefault(cases, method)
    for trainer, methods in part.items():
        if len(whole.get(trainer, [])) == 1 and (cases := _cases_of_fold(selection, whole[trainer][0])):
            methods.setdefault(cases, whole[trainer][0])
    return [dict(sorted(methods.items())) for methods in part.values() if len(methods) > 1]


def _cases_of_fold(selection: Selection, method: str) -> int | None:
    """Training cases of the measured folds, or of all folds for a test set: their mean; None if it isn't known."""
    numbers = set(selection.table.loc[selection.table["method"] == method, "fold"])
    sizes = {str(i): len(fold["train"]) for i, fold in enumerate(selection.results.splits(method) or [])}
    measured = [size for number, size in sizes.items() if number in numbers] or list(sizes.values())
    return round(np.mean(measured)) if measured else None


def plot_bars(selection: Selection, protocol: Protocol) -> Figure:
    """Mean Dice and NSD of each method under one protocol; one row for each target."""
    methods = [m for m in selection.methods if protocol in selection.protocols_of(m)]
    targets, metrics = _targets(selection.table), _metrics(selection.table)
    figure, grid = _grid(len(targets), len(metrics), (1.4 * PANEL, 0.5 + 0.42 * len(methods)), sharey=True)
    for axes, (title, names) in zip(grid, targets.items()):
        for axis, metric in zip(axes, metrics):
            sizes = set()
            for place, method in enumerate(methods):
                rows = selection.rows(method, protocol)
                values = case_means(rows[rows["target"].isin(names)], metric).to_numpy()
                _draw_bar(axis, place, values, method_style(selection.place(method))["color"])
                sizes.add(len(values))
            axis.set_yticks(range(len(methods)), [wrap(selection.name(m)) for m in methods])
            axis.set(
                xlim=(0, 1.15),
                title=f"{wrap(title)}, {_cases(sizes)}",
                xlabel=metric_name(metric),
                ylim=(len(methods) - 0.5, -0.5),
            )
            axis.set_xticks(np.linspace(0, 1, 6))
    figure.suptitle(protocol.name)
    return figure


def plot_click_position(selection: Selection) -> Figure:
    """Dice after clicks in the centre, the surrounding or the margin of the largest lesion.

    Raises:
        SAM3DError: fewer than two of these protocols were measured.
    """
    protocols = [p for p in selection.protocols if p.family.is_click_position]
    if len(protocols) < 2:
        known = ", ".join(family.form for family in FAMILIES.values() if family.is_click_position)
        raise SAM3DError(f"it needs two of the protocols {known}")
    methods = [m for m in selection.methods if set(protocols) & set(selection.protocols_of(m))]
    targets = _targets(selection.table)
    width = PANEL * max(1.0, 0.3 * len(protocols) * len(methods))
    figure, grid = _grid(1, len(targets), (width, 1.2 * PANEL))
    for axis, (title, names) in zip(grid[0], targets.items()):
        for place, method in enumerate(methods):
            step = 0.8 / len(methods)
            offset = (place - (len(methods) - 1) / 2) * step
            for position, protocol in enumerate(protocols):
                rows = selection.rows(method, protocol)
                values = case_means(rows[rows["target"].isin(names)], DICE).to_numpy()
                _draw_box(axis, position + offset, 0.8 * step, values, selection, method)
        axis.set_xticks(range(len(protocols)), [protocol.name for protocol in protocols])
        axis.set(title=wrap(title), ylabel="Dice", xlim=(-0.6, len(protocols) - 0.4))
        axis.grid(axis="y", alpha=0.3)
    _legend_below(figure, grid)
    return figure


def plot_robustness(selection: Selection) -> Figure:
    """Dice where the robot clicks, and beside it where a person does or where clicks are off target.

    One column for each protocol of the robot, one row for each target.

    Raises:
        SAM3DError: no method was measured both ways.
    """
    curves: dict[Protocol, dict[str, list[Protocol]]] = {}
    for method in selection.methods:
        protocols = selection.protocols_of(method)
        for ideal in protocols:
            same = [protocol for protocol in protocols if protocol.ideal == ideal]
            if ideal.ideal == ideal and len(same) > 1:
                curves.setdefault(ideal, {})[method] = same
    if not curves:
        raise SAM3DError("no method was measured with a robot's clicks and others, such as volume_1 and volume_1_human")
    targets = _targets(selection.table)
    figure, grid = _grid(len(targets), len(curves), (1.25 * PANEL, PANEL), sharey=True)
    for axes, (title, names) in zip(grid, targets.items()):
        for axis, (ideal, methods) in zip(axes, curves.items()):
            places = {p: x for x, p in enumerate(sorted(set().union(*methods.values()), key=lambda p: p.order))}
            sizes = set()
            for number, (method, protocols) in enumerate(methods.items()):
                shift = 0.06 * (number - (len(methods) - 1) / 2)  # whiskers of different methods stay apart
                rows = {places[p]: selection.rows(method, p) for p in protocols}
                of_target = {x: of_place[of_place["target"].isin(names)] for x, of_place in rows.items()}
                sizes |= _draw_curve(axis, selection, method, False, of_target, DICE, shift)
            axis.set(title=f"{wrap(title)}, {ideal.name}\n{_cases(sizes)}", ylabel="Dice")
            axis.set_xticks(list(places.values()), [_clicks_of(protocol) for protocol in places])
            axis.set_xlim(-0.4, len(places) - 0.6)
            axis.grid(axis="y", alpha=0.3)
    _legend_below(figure, grid)
    return figure


def _clicks_of(protocol: Protocol) -> str:
    """Where clicks are, in a word or two."""
    if protocol.human:
        return "human"
    return f"{100 * protocol.off_share:g} % off\nby {protocol.off_mm:g} mm" if protocol.off_share else "robot"


def plot_paired(selection: Selection, method: str) -> Figure:
    """Dice of a method, under its first protocol with clicks, against that of the baseline; one dot per case.

    Raises:
        SAM3DError: they have no cases in common with a defined Dice.
    """
    protocol = selection.main_protocol(method)
    other = selection.baseline_protocol(protocol)
    rows, reference = selection.rows(method, protocol), selection.rows(selection.baseline, other)
    pairs = {
        title: pd.concat(
            [case_means(r[r["target"].isin(names)], DICE) for r in (reference, rows)], axis=1, join="inner"
        ).to_numpy()
        for title, names in _targets(selection.table).items()
    }
    pairs = {title: pair for title, pair in pairs.items() if len(pair)}
    if not pairs:
        raise SAM3DError(f"{selection.name(method)} and the baseline have no cases in common whose Dice is defined")
    figure, grid = _grid(1, len(pairs), (1.25 * PANEL, 1.3 * PANEL))
    for axis, (title, pair) in zip(grid[0], pairs.items()):
        mean, low, high = mean_interval(pair[:, 1] - pair[:, 0])
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, zorder=0)
        _draw_dots(axis, *pair.T, method_style(selection.place(method)))
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axis.set_xlabel(f"Dice, {_label(selection, selection.baseline, other)}")
        axis.set_ylabel(f"Dice, {_label(selection, method, protocol)}")
        interval = f" ({low:+.3f} to {high:+.3f})" if np.isfinite(low) else ""
        better = int((pair[:, 1] > pair[:, 0]).sum())
        axis.set_title(f"{wrap(title)}\ndifference {mean:+.3f}{interval}\nbetter in {better} of {len(pair)} cases")
    return figure


def plot_against_volume(selection: Selection) -> Figure:
    """Dice against the volume of the truth, one dot per case; one panel for each method and target.

    Raises:
        SAM3DError: no case has a truth.
    """
    present = selection.table[selection.table["truth_ml"] > 0]
    if present.empty:
        raise SAM3DError("no case has a truth")
    targets, methods = _targets(present), selection.methods
    columns = min(len(methods), METHODS_IN_ROW)
    rows_of_target = -(-len(methods) // columns)
    figure, grid = _grid(len(targets) * rows_of_target, columns, (0.95 * PANEL, 1.1 * PANEL), sharey=True)
    for place, (title, names) in enumerate(targets.items()):
        volumes = present.loc[present["target"].isin(names), "truth_ml"]
        axes = grid[place * rows_of_target : (place + 1) * rows_of_target].ravel()
        for axis, method in zip(axes, methods):
            protocol = selection.main_protocol(method)
            rows = selection.rows(method, protocol)
            rows = rows[rows["target"].isin(names) & (rows["truth_ml"] > 0)]
            dots = rows.groupby(["case", "target"])[["truth_ml", DICE]].mean().dropna()
            _draw_dots(axis, dots["truth_ml"], dots[DICE], method_style(selection.place(method)))
            _scale_volumes(axis, volumes)
            axis.set(ylim=(-0.03, 1.03), title=_label(selection, method, protocol))
            axis.set_ylabel("Dice" if axis.get_subplotspec().is_first_col() else "")
            axis.set_xlabel(f"{wrap(title.removeprefix('mean of '))} (ml)")
        for axis in axes[len(methods) :]:
            axis.axis("off")
    return figure


def _curves(selection: Selection, method: str) -> dict[bool, dict[int, pd.DataFrame]]:
    """Metrics by number of clicks: of clicks drawn at once (key False) and of corrective clicks (key True)."""
    protocols = selection.protocols_of(method)
    drawn = {p.clicks: selection.rows(method, p) for p in protocols if p.is_plotted_against_clicks}
    corrective = {}
    for protocol in protocols:
        if protocol.is_iterated and not (protocol.is_challenge or protocol.human):  # the longest one comes last
            rows = selection.all_rows(method, protocol)
            corrective = {int(count): of_count for count, of_count in rows.groupby("clicks")}
    return {
        iterated: dict(sorted(points.items())) for iterated, points in ((False, drawn), (True, corrective)) if points
    }


def _draw_curve(
    axis: Axes,
    selection: Selection,
    method: str,
    iterated: bool,
    points: dict[int, pd.DataFrame],
    metric: str,
    shift: float,
) -> set[int]:
    """Draw a curve with whiskers. Returns how many cases its points come from."""
    values = {count: case_means(rows, metric).to_numpy() for count, rows in points.items()}
    values = {count: v for count, v in values.items() if len(v)}
    if not values:
        return set()
    means, low, high = np.array([mean_interval(v) for v in values.values()]).T
    style = method_style(selection.place(method))
    if list(values) == [0]:
        axis.axhline(means[0], color=style["color"], linewidth=1, linestyle="dotted")
    axis.errorbar(
        np.array(list(values)) + shift,
        means,
        yerr=[means - low, high - means],
        capsize=2.5,
        markersize=5,
        linestyle="dashed" if iterated else "solid",
        markerfacecolor="white" if iterated else style["color"],
        label=wrap(f"{selection.name(method)}{', corrective clicks' if iterated else ''}", 34),
        **style,
    )
    return {len(v) for v in values.values()}


def _cases(sizes: set[int]) -> str:
    if not sizes:
        return "no cases"
    return f"{min(sizes)} cases" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)} cases"


def _draw_bar(axis: Axes, place: int, values: np.ndarray, colour: str) -> None:
    if not len(values):
        axis.text(0.02, place, "undefined", va="center")
        return
    mean, low, high = mean_interval(values)
    axis.barh(place, mean, height=0.7, color=colour, alpha=0.75)
    if np.isfinite(low):
        axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3, linewidth=1)
    axis.text(np.nanmax([mean, high]) + 0.02, place, f"{mean:.2f}", va="center", fontsize=8)


def _draw_dots(axis: Axes, x: np.ndarray, y: np.ndarray, style: dict[str, str]) -> None:
    axis.scatter(x, y, s=20, alpha=0.7, linewidths=0, **style)
    axis.grid(alpha=0.3)


def _scale_volumes(axis: Axes, volumes: pd.Series) -> None:
    """A logarithmic axis with plain numbers at the ticks."""
    lower, upper = volumes.min() / 1.5, volumes.max() * 1.5
    axis.set(xscale="log", xlim=(lower, upper))
    steps = LogLocator(subs=(1,) if upper / lower > 100 else (1, 2, 5))
    axis.xaxis.set_major_locator(steps if upper / lower > 10 else MaxNLocator(4))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")


def _draw_box(axis: Axes, x: float, width: float, values: np.ndarray, selection: Selection, method: str) -> None:
    style = method_style(selection.place(method))
    colour = {"color": style["color"]}
    axis.boxplot(
        values,
        positions=[x],
        widths=width,
        showfliers=False,
        manage_ticks=False,
        boxprops=colour,
        whiskerprops=colour,
        capprops=colour,
        medianprops={"color": "black"},
    )
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(values)) * width
    label = wrap(selection.name(method), 34)
    axis.scatter(x + jitter, values, s=12, alpha=0.6, linewidths=0, label=label, **style)


def _targets(table: pd.DataFrame) -> dict[str, list[str]]:
    """Targets of each panel, by its title: one panel for each target, or one for all if there are many."""
    names = list(table["target"].unique())
    if len(names) <= MOST_PANELS:
        return {name: [name] for name in names}
    return {f"mean of {len(names)} targets": names}


def _metrics(table: pd.DataFrame) -> list[str]:
    """Dice, and NSD at its first tolerance."""
    return [DICE, *[column for column in table if column.startswith("nsd_")][:1]]


def _label(selection: Selection, method: str, protocol: Protocol) -> str:
    return f"{wrap(selection.name(method))}\n{protocol.name}"


def _grid(rows: int, columns: int, panel: tuple[float, float], **share: Any) -> tuple[Figure, np.ndarray]:
    """A figure with this many panels of this width and height in inches."""
    # pyplot would keep the figure in memory and look for a screen
    figure = Figure(figsize=(columns * panel[0] + 0.6, rows * panel[1] + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def _legend_below(figure: Figure, grid: np.ndarray) -> None:
    """One entry for each label in any panel. The figure grows by the height of the legend."""
    handles = {}
    for axis in grid.flat:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    columns = max(1, int(figure.get_figwidth() / 3.2))
    heights = [sum(label.count("\n") + 1.3 for label in part) for part in np.array_split(list(handles), columns)]
    figure.set_figheight(figure.get_figheight() + LINE * max(heights))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
