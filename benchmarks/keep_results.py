"""Keeps what tables and figures need of a folder of results, small enough for a repository.

Copies the metrics, costs, settings, folds and clicks, which are text. Images, predictions, plans and logs stay behind,
so that overlays can't be drawn from the copy. Names of folders of this machine are replaced or left out. ORIGIN.json
says where the numbers come from, and how benchmarks/results_pages.py is to make their table. At the end, the tables of
both folders are compared.

Example:
    python benchmarks/keep_results.py RESULTS results/spine_mr --recipe spine_ablations
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from results_pages import ORIGIN, kept_content
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import (
    DATA,
    METHOD,
    METRICS,
    METRICS_JSON,
    PREDICTION,
    SCORES,
    SETTINGS,
    SPLITS,
    PredictionFolder,
    Results,
)
from sam3d_nnunet.io import read_json, read_json_object, read_text, write_json, write_text
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.report.long_csv import to_csv
from sam3d_nnunet.report.published import TARGETS
from sam3d_nnunet.simulation.protocols import AUTOMATIC

FORMAT, VERSION = "sam3d_kept_results", 1
OF_METHOD = (METHOD, SPLITS)
OF_PREDICTIONS = (METRICS, METRICS_JSON, PREDICTION, SCORES, SETTINGS)
FOLDERS = ("images", "truth", "test_images", "test_truth")
"""Keys of data.json that name folders."""
ADDRESS = "server"
"""Key of method.json with the address of a model on a server."""
CASES = "cases"
"""Key of metrics.json; metrics.csv holds the same numbers."""
PLACE = re.compile(r"(?<![\w.:/\\~-])(?:[A-Za-z]:)?[/\\](?:[^/\\\s\"',;()\[\]]+[/\\])+")
"""The folders of an absolute path, in any text."""
PACKAGES = ("sam3d_nnunet", "nnunetv2", "torch", "numpy", "scipy", "pandas", "statsmodels", "matplotlib")
ROOT = Path(__file__).parents[1]
CODE = ("sam3d_nnunet", "plans")
"""What the commit must hold for the same results."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Copies") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="folder that sam3d evaluate or sam3d benchmark wrote")
    parser.add_argument("kept", type=Path, help="new folder, such as results/spine_mr")
    parser.add_argument("--recipe", help="that the results come from: its name, or a JSON file")
    parser.add_argument("--baseline", help="of the table; default: that of the recipe")
    parser.add_argument("--with-paper", choices=TARGETS, help="the paper's figures; default: those of the recipe")
    parser.add_argument("--lesions", action="store_true", help="have the detection of lesions in the table")
    parser.add_argument("--commit", help="that trained and measured; default: the one that is checked out")
    parser.add_argument("--processor", help="that trained and measured; default: GPUs that method.json names; this CPU")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this script wrote")
    options = parser.parse_args(arguments)
    try:
        files = keep(options)
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files, {size / 2**20:.1f} MiB, in {options.kept}. The tables of both folders are the same.")


def keep(options: argparse.Namespace) -> list[Path]:
    """Copy what is needed, and write ORIGIN.json. The copy appears complete or not at all.

    Returns:
        the files.

    Raises:
        SAM3DError: there is no folder of results, the copy exists already, a file isn't text or names a folder of this
            machine, or the copy gives other tables.
    """
    results, kept = Results(options.results), options.kept
    _refuse_existing(kept, options.overwrite)
    origin = _origin(results, options)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{kept.name}.", dir=kept.parent) as folder:
        part = Path(folder) / kept.name
        part.mkdir()
        for file in tqdm(sorted(set(kept_files(results))), desc="Copying", unit="file"):
            copy(file, part / file.relative_to(results.root))
        write_json(part / ORIGIN, origin, ensure_ascii=False)
        if to_csv(kept_content(part)) != to_csv(kept_content(results.root, origin)):
            raise SAM3DError(f"{results.root} and its copy give different tables. Report this as a bug.")
        if kept.exists():
            rmtree(kept)
        part.rename(kept)
    return sorted(file for file in kept.rglob("*") if file.is_file())


def kept_files(results: Results) -> Iterator[Path]:
    """The files that tables and figures read, images and predictions apart. Some come several times."""
    yield results.root / DATA
    for folder in (folder for folders in results.runs.values() for folder in folders):
        yield from filter(Path.is_file, (results.root / folder / name for name in OF_METHOD))
    for folder in results.folders:
        places = [folder.path] if folder.clicks is None else [folder.path, folder.path.parent]
        yield from filter(Path.is_file, (place / name for place in places for name in OF_PREDICTIONS))
    last = {(f.method, f.run, f.protocol, f.fold, f.trial): f for f in results.folders}  # the last step comes last
    rows = results.metrics.groupby(["method", "run", "protocol", "fold", "trial"])["case"].unique()
    for key, folder in last.items():
        if folder.protocol != AUTOMATIC:
            yield from (file for case in rows[key] for file in _clicks(results, folder, case))


def _clicks(results: Results, folder: PredictionFolder, case: str) -> list[Path]:
    """Clicks of a case that were drawn beforehand, and those beside its prediction if they are others."""
    drawn = results.prompt_file(folder.protocol, folder.trial, case)
    files = [drawn] if drawn.is_file() else []
    # CASE.json holds the image's spacing where there is a CASE.csv
    beside = next(filter(Path.is_file, (folder.path / f"{case}{ending}" for ending in (".csv", ".json"))), None)
    if beside is not None and not (files and _same_clicks(beside, drawn)):
        files.append(beside)
    return files


def _same_clicks(one: Path, other: Path) -> bool:
    prompts = [read_prompt(file) for file in (one, other)]
    points, labels = ([getattr(prompt, name).tolist() for prompt in prompts] for name in ("points", "labels"))
    return points[0] == points[1] and labels[0] == labels[1]


def copy(file: Path, to: Path) -> None:
    """Copy a text file without the names of this machine's folders.

    Raises:
        SAM3DError: it can't be read, is not text, or is a table that names a folder.
    """
    text = read_text(file)
    if "\0" in text:
        raise SAM3DError(f"{file} is not text, and only text is kept. Delete it, and run sam3d evaluate again.")
    if file.suffix == ".json":
        content = read_json(file)
        cleaned = clean(file.name, content)
        text = text if cleaned == content else json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"
    elif found := PLACE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise SAM3DError(f"{file}, line {line}, names a folder of this machine: {found[0]}. Remove it there.")
    to.parent.mkdir(parents=True, exist_ok=True)
    write_text(to, text)


def clean(name: str, content: Any) -> Any:
    """The content of a JSON file, folders of this machine replaced by names or left out."""
    if name == DATA:
        dataset = content.get("dataset", "data")
        content = content | {key: f"{dataset}/{_name(content[key])}" for key in FOLDERS if key in content}
    elif name == METHOD:
        content = {key: value for key, value in content.items() if key != ADDRESS}
    elif name == METRICS_JSON and isinstance(content, dict):
        content = {key: value for key, value in content.items() if key != CASES}
    return _without_places(content)


def _name(path: str) -> str:
    """Last part of a path of any system."""
    return (PureWindowsPath if "\\" in path else PurePosixPath)(path).name


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_places(one) for one in value]
    return PLACE.sub("", value) if isinstance(value, str) else value


def _origin(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """The content of ORIGIN.json."""
    recipe = None if options.recipe is None else load_recipe(options.recipe)
    compared = (recipe or {}).get("benchmark", {})
    names = {name for method, facts in results.methods.items() for name in (method, facts.get("name"))}
    baseline = compared.get("baseline") if compared.get("baseline") in names else None
    measured = max((folder.path / METRICS).stat().st_mtime for folder in results.folders) if results.folders else 0
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset": results.data.get("dataset"),
        "measured": datetime.fromtimestamp(measured, timezone.utc).date().isoformat(),
        "kept": datetime.now(timezone.utc).date().isoformat(),
        "commit": options.commit or _commit(),
        "recipe": None if recipe is None else {"name": Path(options.recipe).stem, "content": recipe},
        "table": {
            "baseline": options.baseline or baseline,
            "paper": options.with_paper or compared.get("paper"),
            "lesions": options.lesions,
        },
        "packages": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "processor": options.processor or _processors(results),
        "training": {method: _training(results, method) for method in results.methods},
    }


def _training(results: Results, method: str) -> dict[str, Any]:
    """Seconds of all trainings of a method. method.json holds those of one fold, which stand for each of its folds."""
    known, seconds, trainings = True, 0.0, 0
    for run, folder in enumerate(results.runs[method]):
        hours = read_json_object(results.root / folder / METHOD).get("training_hours")
        folds = {f.fold for f in results.folders if (f.method, f.run) == (method, run) and f.fold.isdecimal()}
        trainings += len(folds)
        known &= hours is not None
        seconds += 3600 * (hours or 0) * len(folds)
    return {"trainings": trainings, "seconds": round(seconds) if known and trainings else None}


def _commit() -> str:
    """The one that is checked out; with a word about changes that are not committed."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", *CODE]
        changes = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as e:
        raise SAM3DError("git does not tell the commit of this code. Give it with --commit.") from e
    return f"{commit} with changes" if changes else commit


def _processors(results: Results) -> str:
    """GPUs that measured, and this machine's CPU where one did: method.json does not name CPUs."""
    devices = dict.fromkeys(facts.get("device", "cpu") for facts in results.methods.values())
    return "; ".join(dict.fromkeys(_processor() if device == "cpu" else device for device in devices))


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError:  # not Linux
        return ""


def _refuse_existing(kept: Path, overwrite: bool) -> None:
    if kept.exists() and not overwrite:
        raise SAM3DError(f"{kept} is there already. Give another folder, or --overwrite.")
    if kept.exists() and not (kept / ORIGIN).is_file():
        raise SAM3DError(f"{kept} holds no {ORIGIN}, so it is no folder of kept results. Give another folder.")


if __name__ == "__main__":
    main()
