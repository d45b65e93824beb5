import ast
import importlib.util
from pathlib import Path

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet import names
from sam3d_nnunet.nnunet.registration import EXT_FILE


def static_names() -> tuple[str, ...]:
    """OURS of the file that works without the package."""
    spec = importlib.util.spec_from_file_location("sam3d_trainers", EXT_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OURS


def nnunet_classes() -> list[str]:
    """All classes of nnU-Net below the folders in which it looks for trainers and planners."""
    package = Path(importlib.util.find_spec("nnunetv2").origin).parent
    files = [file for part in ("training", "experiment_planning") for file in (package / part).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return [node.name for node in nodes if isinstance(node, ast.ClassDef)]


def test_the_static_list_covers_the_registry_and_nothing_of_nnunet():
    registered = [*names.TRAINERS, *names.PLANNERS]
    assert [name for name in registered if not name.startswith(static_names())] == []
    assert [start for start in static_names() if not any(name.startswith(start) for name in registered)] == []
    theirs = nnunet_classes()
    assert "nnUNetTrainer_250epochs" in theirs and "ExperimentPlanner" in theirs
    assert [name for name in theirs if name.startswith(static_names())] == []


def test_every_registered_class_exists():
    lookup = names.class_lookup(__name__)
    for name, trainer in names.TRAINERS.items():
        found = lookup(name)
        assert (found.__name__, found.__module__) == (name, f"sam3d_nnunet.{trainer.module}")


def test_groups_hold_every_trainer_once():
    groups = names.trainer_groups()
    assert sorted(name for members in groups.values() for name in members) == sorted(names.TRAINERS)
    assert "SAM3DAdapterTrainer" in groups[names.OURS]
    assert names.trainers_in(names.OURS, names.NNUNET) == (*groups[names.OURS], *groups[names.NNUNET])


def test_find_trainer():
    assert names.find_trainer("nnUNetTrainer_250epochs").__module__.startswith("nnunetv2.")
    assert names.takes_prompts(names.find_trainer("SAM3DAdapterTrainer"))
    assert not names.takes_prompts(names.find_trainer("nnUNetTrainer"))
    with pytest.raises(SAM3DError, match="NoTrainer"):
        names.find_trainer("NoTrainer")
