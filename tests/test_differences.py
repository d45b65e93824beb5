"""The page "What differs from the paper" names, for each difference, a switch that undoes it. Each must exist."""

import importlib
import importlib.metadata
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from sam3d_nnunet.cli.main import app
from sam3d_nnunet.nnunet.names import TRAINERS, find_trainer
from sam3d_nnunet.planning.recipes import Recipe, known_recipes, load_recipe
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings
from sam3d_nnunet.simulation.protocols import Protocol
from sam3d_nnunet.training.published import (
    SAM3DAdapterTrainer_paper,
    SAM3DAdapterTrainer_released,
    SAM3DAdapterTrainer_released_inplane,
)

PAGE = Path(__file__).parents[1] / "docs" / "explanations" / "paper.md"
FACTS = ("Counts of parameters", "The paper's figures")
"""Sections that list no differences."""
BETWEEN = re.compile(r"^[,;]?\s*(or|with|and)?$")
"""What may stand between two switches of a cell."""
NONE = re.compile(r"\bnone[^:`|]*: \w+( \S+)+")
"""That there is no switch, and why."""


def tables() -> Iterator[tuple[str, list[list[str]]]]:
    """Section and rows of each table of the page, the header first."""
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().split("\n")]
            yield title, [rows[0], *rows[2:]]


def differences() -> dict[str, str]:
    """What differs -> the cell with its switch."""
    found = {}
    for title, (head, *rows) in tables():
        if title in FACTS or "KiTS21 tumour" in head:
            continue
        assert head[-1] == "switch", f"{title}: {head}"
        for row in rows:
            assert len(row) == len(head), row
            found[f"{title}: {row[0]}"] = row[-1]
    return found


def switches(cell: str) -> list[str]:
    """The switches of a cell; none if it says why there is none."""
    text, none, _ = cell.partition(none_of(cell)) if none_of(cell) else (cell, "", "")
    names = [name.strip() for name in re.findall(r"`([^`]+)`", text)]
    between = re.sub(r"`[^`]+`", "`", text).split("`")
    assert all(BETWEEN.match(words.strip()) for words in between if words), f"{cell!r} is not made up of switches"
    assert names or none, f"{cell!r} names no switch, and not why there is none"
    return names


def none_of(cell: str) -> str:
    match = NONE.search(cell)
    return match[0] if match else ""


def check(switch: str, folder: Path) -> None:
    """Fails if the switch doesn't exist; writes into a folder."""
    if switch.startswith("-tr "):
        name = switch.removeprefix("-tr ")
        assert name in TRAINERS and find_trainer(name).__name__ == name
    elif switch.startswith("sam3d "):
        check_command(shlex.split(switch)[1:])
    elif switch.startswith("nnUNetv2_"):
        command, *options = shlex.split(switch)
        (entry,) = importlib.metadata.entry_points(group="console_scripts", name=command)
        source = inspect.getsource(importlib.import_module(entry.module))
        assert options and all(f"'{option}'" in source for option in options if option.startswith("-")), switch
    else:
        assert switch.startswith('"'), f"{switch!r} is not a switch"
        check_setting(json.loads(f"{{{switch}}}"), folder)


def check_command(words: list[str]) -> None:
    """Parses the options as the command does; only values that the command must have may be missing."""
    command = get_command(app)
    context = command.context_class(command, info_name="sam3d")
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
        context = command.context_class(command, info_name=name, parent=context)
    given, rest, _ = command.make_parser(context).parse_args(list(words))
    assert words and not rest, words
    values = {p.name: p.process_value(context, given[p.name]) for p in command.params if given.get(p.name) is not None}
    for protocol in values.get("protocol") or ():
        Protocol.parse(protocol)
    if "recipe" in values:
        load_recipe(values["recipe"])
        assert values["recipe"] in known_recipes()
    if "trainer" in values:
        find_trainer(values["trainer"])


def check_setting(setting: dict, folder: Path) -> None:
    """A setting of the block, or a key beside the block in a recipe."""
    (key,) = setting
    if key in Recipe.model_fields and key != BLOCK:
        file = folder / "recipe.json"
        file.write_text(json.dumps(setting))
        load_recipe(file)
        return
    settings = SAM3DSettings.read(setting, "The page's block")
    for name, arguments in settings.networks.items():
        trainer = find_trainer(name)
        taken = trainer.network_arguments(settings)
        assert arguments and arguments.items() <= taken.items()
        with torch.device("meta"):
            trainer.make_network(1, 2, (32, 32, 32), **taken)


@pytest.mark.parametrize("difference", differences())
def test_the_switch_of_each_difference_exists(difference, tmp_path):
    for switch in switches(differences()[difference]):
        check(switch, tmp_path)


def test_the_page_has_all_its_tables():
    titles = [title for title, _ in tables()]
    assert {"Network", "Training", "Data", "Prediction", "Comparison"} <= set(titles)
    assert len(differences()) > 50


@pytest.mark.parametrize(
    "switch",
    [
        "-tr SAM3DAdapterTrainer_papr",
        "sam3d evaluate --papper",
        "sam3d evaluat --paper",
        "sam3d evaluate",
        "sam3d evaluate --protocol voluem_1",
        "sam3d predict --windows three",
        "sam3d evaluate --tolerance five",
        "sam3d plan --recipe kits22_tumor",
        "sam3d splits import --their-validation leave",
        "nnUNetv2_train --val_bests",
        "nnUNetv2_trian --val_best",
        '"strat": "published"',
        '"start": "publishd"',
        '"clicks": {"policy": "papers"}',
        '"networks": {"SAM3DSTAdapterTrainer": {"nek": "3d"}}',
        '"networks": {"SAM3DSTAdapterTrainer": {"neck": "4d"}}',
        '"networks": {"SAM3DSTAdaptrTrainer": {"neck": "3d"}}',
        '"patch_size": [64, 64]',
        "the trainer of the paper",
    ],
)
def test_a_switch_that_does_not_exist_is_found(switch, tmp_path):
    with pytest.raises(Exception):  # noqa: B017  (of the assertion, the parser, JSON or the settings)
        check(switch, tmp_path)


@pytest.mark.parametrize("cell", ["", "none", "none: no", "see `-tr SAM3DAdapterTrainer_paper`", "ask the authors"])
def test_a_cell_without_switch_or_reason_is_found(cell):
    with pytest.raises(AssertionError):
        switches(cell)


@pytest.mark.parametrize(
    "trainer", [SAM3DAdapterTrainer_paper, SAM3DAdapterTrainer_released, SAM3DAdapterTrainer_released_inplane]
)
def test_all_that_the_published_trainers_set_is_on_the_page(trainer):
    """A setting of theirs that isn't the default is a difference, so a row must name its key."""
    default = SAM3DSettings().model_dump()
    set_otherwise = {
        key for key, value in SAM3DSettings.read(trainer.changes, "").model_dump().items() if value != default[key]
    }
    named = {switch.split('"')[1] for cell in differences().values() for switch in switches(cell) if switch[0] == '"'}
    assert set_otherwise <= named
    assert f"-tr {trainer.__name__}" in {switch for cell in differences().values() for switch in switches(cell)}
