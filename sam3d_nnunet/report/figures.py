"""`sam3d figures`: draw all figures that a folder of results allows, as PNG and SVG."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError, refusal
from sam3d_nnunet.evaluation.metrics import targets_of
from sam3d_nnunet.evaluation.results import KEYS, PredictionFolder, Results
from sam3d_nnunet.report.case_images import CaseImage, CaseReader
from sam3d_nnunet.report.overlays import Panel, draw_panels, largest_slice, most_clicked_slice
from sam3d_nnunet.report.plots import (
    DICE,
    case_means,
    plot_against_cases,
    plot_against_clicks,
    plot_against_volume,
    plot_bars,
    plot_click_position,
    plot_paired,
    plot_robustness,
)
from sam3d_nnunet.report.selection import Selection
from sam3d_nnunet.report.style import save, style, wrap
from sam3d_nnunet.simulation.protocols import Protocol

PANELS_IN_ROW = 6
MOST_TRIALS = 5  # of one case side by side
MOST_DICE = 3  # in a title; with more targets, it shows their mean


def write_figures(
    results: Results,
    folder: str | Path,
    cases: Sequence[str] | None = None,
    baseline: str | None = None,
    protocols: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> list[Path]:
    """Write the figures that the results allow. A line on stderr says what is left out, and why.

    overlay_CASE            truth and methods, on the slice that shows most of the truth
    clicks_CASE             one case after different clicks, each on the slice of its click
    dice_against_clicks     Dice and NSD against the number of clicks
    dice_against_cases      Dice against the number of training cases
    bars_PROTOCOL           Dice and NSD of all methods
    click_position          Dice after clicks in the centre, the surrounding and the margin of the largest lesion
    robustness              Dice after clicks of the robot, and beside it after clicks of a person or off target
    scatter_METHOD          Dice against that of the baseline, one dot per case
    dice_against_volume     Dice against the volume of the truth

    If both folds and a test set were measured, each gets its own plots; those of the test set are called NAME_test.

    Args:
        results: the folder of results.
        folder: for the figures; made if it isn't there.
        cases: cases to overlay. None: the worst, the median and the best case, by how much the first method with clicks
            gains in Dice over the baseline, or by its Dice if there is no baseline.
        baseline: folder or display name of the method that the others are compared with.
        protocols: names of those to show. None: all in plots; in overlays each method's first one with clicks.
        methods: folder or display names of those to show; None: all.

    Returns:
        the files.

    Raises:
        SAM3DError: a name is unknown, nothing was measured, or the folder can't be made.
    """
    selection = Selection(results, methods, protocols, baseline)
    figures = {}
    if cases:
        _refuse_unknown(selection, cases)
    for suffix, part in selection.by_source().items():
        shown = [c for c in dict.fromkeys(cases) if (part.table["case"] == c).any()] if cases else _typical_cases(part)
        figures |= _figures(part, shown, bool(protocols), suffix)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise SAM3DError(refusal(e)) from e
    files = []
    with style():
        for name, draw in tqdm(figures.items(), unit="figure"):
            try:
                files += save(draw(), folder / name)
            except SAM3DError as e:
                report_left_out(f"left out {name}: {e}")
    return files


def draw_overlay(selection: Selection, reader: CaseReader, case: str, all_protocols: bool = False) -> Figure:
    """Truth and methods side by side, with the first trial of each. Files that can't be read are left out with a line
    on stderr.

    Args:
        all_protocols: a panel for each protocol of each method, instead of only its first one with clicks.

    Raises:
        SAM3DError: image or truth can't be read, or there is no prediction.
    """
    image, targets = reader.image(case), targets_of(selection.results.dataset_json)
    folders = []
    for method in selection.methods:
        for protocol in selection.protocols_of(method) if all_protocols else [selection.main_protocol(method)]:
            folders += _folders(selection, method, protocol, case)[:1]
    panels = _panels(selection, reader, image, folders, lambda clicks: largest_slice(image.truth, targets, clicks))
    if not panels:
        raise SAM3DError("no prediction can be read")
    panels.insert(0, Panel("truth", panels[0].index))
    return draw_panels(image, targets, [panels[i : i + PANELS_IN_ROW] for i in range(0, len(panels), PANELS_IN_ROW)])


def draw_clicks(selection: Selection, reader: CaseReader, case: str) -> Figure:
    """One case after different clicks: a row for each method, its trials side by side, each on the slice of its click.

    Raises:
        SAM3DError: no protocol of one click was measured in several trials, or nothing can be read.
    """
    image, targets = reader.image(case), targets_of(selection.results.dataset_json)
    rows = []
    for method in selection.methods:
        trials = _trials(selection, method, case)[:MOST_TRIALS]
        row = _panels(selection, reader, image, trials, lambda clicks: most_clicked_slice(len(image.image), clicks))
        rows += [row] if row else []
    if not rows:
        raise SAM3DError("no method was measured in several trials of one click")
    return draw_panels(image, targets, rows)


def _figures(
    selection: Selection, cases: Sequence[str], all_protocols: bool, suffix: str
) -> dict[str, Callable[[], Figure]]:
    """Functions that draw the figures, by the names of their files. Names of plots end in `suffix`."""
    reader = CaseReader(selection.results)
    figures: dict[str, Callable[[], Figure]] = {}
    for case in cases:
        figures[f"overlay_{case}"] = lambda case=case: draw_overlay(selection, reader, case, all_protocols)
        figures[f"clicks_{case}"] = lambda case=case: draw_clicks(selection, reader, case)
    figures[f"dice_against_clicks{suffix}"] = lambda: plot_against_clicks(selection)
    figures[f"dice_against_cases{suffix}"] = lambda: plot_against_cases(selection)
    for protocol in selection.protocols:
        figures[f"bars_{protocol.name}{suffix}"] = lambda protocol=protocol: plot_bars(selection, protocol)
    figures[f"click_position{suffix}"] = lambda: plot_click_position(selection)
    figures[f"robustness{suffix}"] = lambda: plot_robustness(selection)
    if selection.baseline is None:
        report_left_out(f"left out scatter_METHOD{suffix}: there is no baseline, or it was not measured on these cases")
    else:
        for method in selection.methods:
            if method != selection.baseline:
                figures[f"scatter_{method}{suffix}"] = lambda method=method: plot_paired(selection, method)
    figures[f"dice_against_volume{suffix}"] = lambda: plot_against_volume(selection)
    return figures


def _typical_cases(selection: Selection) -> list[str]:
    """The worst, the median and the best case of the first method with clicks."""
    others = [m for m in selection.methods if m != selection.baseline] or selection.methods
    method = next((m for m in others if not selection.main_protocol(m).is_automatic), others[0])
    protocol = selection.main_protocol(method)
    values = case_means(selection.rows(method, protocol), DICE)
    if selection.baseline is not None:
        other = selection.rows(selection.baseline, selection.baseline_protocol(protocol))
        values = (values - case_means(other, DICE)).dropna()
    ranked = values.sort_values(kind="stable").index.tolist()
    return list(dict.fromkeys(ranked[i] for i in (0, len(ranked) // 2, -1))) if ranked else []


def _refuse_unknown(selection: Selection, cases: Sequence[str]) -> None:
    measured = set(selection.table["case"])
    for case in cases:
        if case not in measured:
            raise SAM3DError(f"{selection.results.root} has no case {case!r} of these methods and protocols.")


def _trials(selection: Selection, method: str, case: str) -> list[PredictionFolder]:
    """Predictions under the method's first protocol that gives one click in several trials, if there is one."""
    for protocol in selection.protocols_of(method):
        folders = _folders(selection, method, protocol, case) if protocol.gives_one_click else []
        if len(folders) > 1:
            return folders
    return []


def _folders(selection: Selection, method: str, protocol: Protocol, case: str) -> list[PredictionFolder]:
    """Folders with the predictions of a case by the first run, one for each trial, after the last click."""
    rows = selection.rows(method, protocol)
    rows = rows[rows["case"] == case].sort_values("run").drop_duplicates("trial")
    found = []
    for row in rows.sort_values("trial").itertuples():
        clicks = None if pd.isna(row.clicks) else int(row.clicks)
        key = (method, row.run, protocol.name, row.fold, row.trial, clicks)
        found += [f for f in selection.results.folders if tuple(getattr(f, name) for name in KEYS) == key]
    return found


def _panels(
    selection: Selection,
    reader: CaseReader,
    image: CaseImage,
    folders: list[PredictionFolder],
    choose_slice: Callable[[np.ndarray], int],
) -> list[Panel]:
    """A panel for each prediction that can be read, on the slice that `choose_slice` finds for its clicks."""
    panels = []
    for folder in folders:
        try:
            clicks, labels = reader.clicks(image, folder)
            index = choose_slice(clicks)
            mask = reader.prediction(image, folder)[index].copy()  # a view would keep the whole volume in memory
        except SAM3DError as e:
            report_left_out(f"left out of the figures of {image.name}: {folder.method}, {folder.protocol}: {e}")
            continue
        panels.append(Panel(_title(selection, folder, image.name), index, mask, clicks, labels))
    return panels


def _title(selection: Selection, folder: PredictionFolder, case: str) -> str:
    """Method, protocol and the Dice of the case for each target."""
    protocol = Protocol.parse_or_other(folder.protocol)
    table = selection.rows(folder.method, protocol)
    place = ["run", "fold", "trial"]
    here = (table["case"] == case) & (table[place] == [getattr(folder, name) for name in place]).all(axis=1)
    dice = ["undefined" if pd.isna(d) else f"{d:.2f}" for d in table.loc[here, DICE]]
    if len(dice) > MOST_DICE:
        dice = [f"{table.loc[here, DICE].mean():.2f} (mean)"]
    trial = "" if not protocol.has_trials else f", trial {folder.trial + 1}"
    return f"{wrap(selection.name(folder.method))}\n{protocol.name}{trial}\nDice {' / '.join(dice)}"


def report_left_out(text: str) -> None:
    """One line on stderr, above the progress bar."""
    tqdm.write(text, file=sys.stderr)
