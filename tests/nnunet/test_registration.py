"""`sam3d register` on a fake tree, and nnU-Net's own look-ups on a copy of the installed nnunetv2."""

import ast
import errno
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sam3d_nnunet
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet import names as nnunet_names
from sam3d_nnunet.nnunet import registration


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Folders like nnunetv2's, taken for the installed one."""
    nnunet = tmp_path / "nnunetv2"
    for file in registration.registered_files(nnunet):
        file.parent.mkdir(parents=True)
        (file.parent / "upstream.py").write_text("")
    monkeypatch.setattr(registration, "_locate", lambda: (nnunet, True))
    return nnunet


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_register_writes_two_headed_files_and_unregister_removes_them(tree):
    before = files_in(tree)
    written = registration.register()
    assert files_in(tree) == sorted(before + list(registration.PLACES))
    assert all(file.read_text().startswith(registration.MARK) for file in written)
    assert set(registration.status().values()) == {"current"}

    cache = written[0].parent / "__pycache__"
    cache.mkdir()
    (cache / f"{written[0].stem}.cpython-311.pyc").write_text("")
    (cache / "upstream.cpython-311.pyc").write_text("")
    assert registration.unregister() == written
    assert files_in(tree) == sorted([*before, "training/nnUNetTrainer/__pycache__/upstream.cpython-311.pyc"])
    assert registration.unregister() == []


def test_registering_again_changes_nothing(tree):
    times = [file.stat().st_mtime_ns for file in registration.register()]
    assert [file.stat().st_mtime_ns for file in registration.register()] == times


def test_files_of_another_version_are_overwritten(tree):
    file = registration.register()[0]
    file.write_text(f"{registration.MARK} (sam3d_nnunet 0.0.1)\n")
    assert registration.status()[file] == "other version"
    registration.register()
    assert registration.status()[file] == "current"


def test_a_foreign_file_is_left_alone(tree):
    foreign = tree / registration.PLACES[1]
    foreign.write_text("mine")
    with pytest.raises(SAM3DError, match=registration.PLACES[1]):
        registration.register()
    assert registration.unregister() == []
    assert foreign.read_text() == "mine"
    assert not (tree / registration.PLACES[0]).exists()


@pytest.mark.parametrize("function", ["os.replace", "pathlib.Path.write_text"])
def test_read_only_site_packages(tree, monkeypatch, function):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(tree))

    before = files_in(tree)
    monkeypatch.setattr(function, refuse)
    with pytest.raises(SAM3DError) as error:
        registration.register()
    assert f"nnUNet_extTrainer={registration.EXT_FOLDER} " in str(error.value)
    assert "sam3d plan -d ID" in str(error.value)
    assert files_in(tree) == before


def test_one_unusable_folder_leaves_the_other_untouched(tree):
    shutil.rmtree(tree / "experiment_planning/experiment_planners")
    (tree / "experiment_planning/experiment_planners").write_text("a file where a folder should be")
    before = files_in(tree)
    with pytest.raises(SAM3DError, match=f"nnUNet_extTrainer={registration.EXT_FOLDER}"):
        registration.register()
    assert files_in(tree) == before


def test_file_that_cannot_be_removed(tree, monkeypatch):
    registration.register()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(SAM3DError, match=f"{registration.PLACES[0]}.*Permission denied"):
        registration.unregister()


def test_without_nnunet(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SAM3DError, match="nnunetv2"):
        registration.register()
    assert registration.unregister() == []


def test_left_overs_of_an_uninstalled_nnunet(tmp_path, monkeypatch):
    file = tmp_path / "nnunetv2" / registration.PLACES[0]
    file.parent.mkdir(parents=True)
    file.write_text(registration.MARK)
    (tmp_path / "neighbour").mkdir()
    spec = importlib.machinery.PathFinder.find_spec("nnunetv2", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    with pytest.raises(SAM3DError, match=str(tmp_path / "nnunetv2")):
        registration.register()
    assert registration.unregister() == [file]
    assert [entry.name for entry in tmp_path.iterdir()] == ["neighbour"]


def load_ext_file():
    spec = importlib.util.spec_from_file_location("sam3d_trainers", registration.EXT_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_our_names_are_answered(monkeypatch):
    module = load_ext_file()
    assert not hasattr(module, "nnUNetTrainer_250epochs")
    assert not hasattr(module, "__path__")
    # The table is read on each look-up, so an upgrade adds names without registering again.
    monkeypatch.setitem(nnunet_names.TRAINERS, "SAM3DError", nnunet_names.Trainer("errors", nnunet_names.OURS, ""))
    assert module.SAM3DError.__module__ == "sam3d_nnunet.errors"


def test_files_that_were_registered_before_the_rooms_still_work(tmp_path, monkeypatch):
    text = registration.EXT_FILE.read_text()
    assert text.count("sam3d_nnunet.nnunet.names import class_lookup") == 1
    (tmp_path / "earlier.py").write_text(text.replace("nnunet.names import", "nnunet_names import"))
    monkeypatch.setattr(registration, "EXT_FILE", tmp_path / "earlier.py")
    assert load_ext_file().SAM3DPlanner.__module__ == "sam3d_nnunet.planning.planner"


def test_a_class_that_cannot_be_loaded_is_not_taken_for_absent(monkeypatch):
    module = load_ext_file()
    monkeypatch.setitem(nnunet_names.TRAINERS, "SAM3DLost", nnunet_names.Trainer("errors", nnunet_names.OURS, ""))
    with pytest.raises(ImportError, match="SAM3DLost .* sam3d_nnunet.errors"):
        hasattr(module, "SAM3DLost")
    monkeypatch.setitem(nnunet_names.TRAINERS, "SAM3DLost", nnunet_names.Trainer("no_such_module", "", ""))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        hasattr(module, "SAM3DLost")


def test_with_the_package_gone(monkeypatch):
    module = load_ext_file()
    monkeypatch.setitem(sys.modules, "sam3d_nnunet.nnunet.names", None)
    assert not hasattr(module, "nnUNetTrainer_250epochs")
    for name in [*nnunet_names.TRAINERS, *nnunet_names.PLANNERS, "SAM3DTrainerOfAnotherVersion"]:
        with pytest.raises(SystemExit, match=f"Error: {name} .*sam3d_nnunet.*{sys.executable}"):
            hasattr(module, name)


def test_ext_folder_holds_nothing_else():
    assert [entry.name for entry in registration.EXT_FOLDER.iterdir() if entry.name != "__pycache__"] == [
        registration.EXT_FILE.name
    ]


@pytest.fixture(scope="module")
def nnunet_copy(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH with a copy of nnunetv2, so that the installed one stays as it is. Not registered."""
    folder = tmp_path_factory.mktemp("copy")
    installed = Path(importlib.util.find_spec("nnunetv2").origin).parent
    shutil.copytree(installed, folder / "nnunetv2", ignore=shutil.ignore_patterns("sam3d_nnunet_*"))
    return folder


@pytest.fixture(scope="module")
def registered(nnunet_copy, tmp_path_factory) -> Path:
    """The same, after `sam3d register`."""
    folder = tmp_path_factory.mktemp("registered")
    shutil.copytree(nnunet_copy / "nnunetv2", folder / "nnunetv2")
    done = run_python(folder, "from sam3d_nnunet.cli.main import main; main()", "register")
    assert done.returncode == 0, done.stderr
    assert all((folder / "nnunetv2" / place).exists() for place in registration.PLACES)
    return folder


def run_python(folder: Path, code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "nnUNet_extTrainer"}
    package = Path(sam3d_nnunet.__file__).parents[1]  # the one that is tested, wherever another is installed
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder), str(package)]), **variables}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def trainers_of(nnunet: Path) -> list[str]:
    files = (nnunet / "training" / "nnUNetTrainer").rglob("*.py")
    statements = [statement for file in files for statement in ast.parse(file.read_text()).body]
    return [node.name for node in statements if isinstance(node, ast.ClassDef) and "Trainer" in node.name]


LOOK_UP_ALL = """
import sys
if {gone}:
    sys.modules["sam3d_nnunet"] = None
from nnunetv2.experiment_planning.plan_and_preprocess_api import join, nnunetv2, recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
for name in sys.argv[1:]:
    assert recursive_find_trainer_class_by_name(name).__module__.startswith("nnunetv2."), name
for name in ("ExperimentPlanner", "nnUNetPlannerResEncL", "DatasetFingerprintExtractor"):
    folder = join(nnunetv2.__path__[0], "experiment_planning")
    assert recursive_find_python_class(folder, name, "nnunetv2.experiment_planning").__name__ == name
assert "torch" in sys.modules and not any(name.startswith("sam3d_nnunet.training") for name in sys.modules)
"""


@pytest.mark.parametrize("gone", [False, True])
def test_all_trainers_of_nnunet_are_still_found(nnunet_copy, registered, gone):
    trainers = trainers_of(nnunet_copy / "nnunetv2")
    assert len(trainers) > 50
    done = run_python(registered, LOOK_UP_ALL.format(gone=gone), *trainers)
    assert done.returncode == 0, done.stderr


TRAIN_WITHOUT_PACKAGE = """
import sys
sys.modules["sam3d_nnunet"] = None
from nnunetv2.run.run_training import run_training_entry
run_training_entry()
"""
PLAN_WITHOUT_PACKAGE = """
import sys
sys.modules["sam3d_nnunet"] = None
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_experiment_entry
plan_experiment_entry()
"""


@pytest.mark.parametrize(
    "code, arguments, name",
    [
        (TRAIN_WITHOUT_PACKAGE, "4 3d_fullres 0 -tr SAM3DAdapterTrainer -device cpu", "SAM3DAdapterTrainer"),
        (PLAN_WITHOUT_PACKAGE, "-d 4 -pl SAM3DPlanner", "SAM3DPlanner"),
    ],
)
def test_nnunets_commands_end_in_a_sentence_when_the_package_is_gone(registered, code, arguments, name):
    done = run_python(registered, code, *arguments.split())
    assert done.returncode == 1
    assert f"Error: {name} " in done.stderr and "sam3d_nnunet" in done.stderr
    assert "Traceback" not in done.stderr


SPAWN = """
import multiprocessing
import sys


def describe(trainer):
    return trainer.__module__


if __name__ == "__main__":
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    trainers = [recursive_find_trainer_class_by_name(name) for name in sys.argv[1:]]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(describe, trainers))
"""


@pytest.mark.parametrize(
    "folder, variables",
    [("registered", {}), ("nnunet_copy", {"nnUNet_extTrainer": str(registration.EXT_FOLDER)})],
    ids=["registered", "nnUNet_extTrainer"],
)
def test_our_trainers_are_found_and_pickle_for_a_worker(request, folder, variables):
    done = run_python(request.getfixturevalue(folder), SPAWN, *nnunet_names.TRAINERS, **variables)
    assert done.returncode == 0, done.stderr
    places = [f"sam3d_nnunet.{trainer.module}" for trainer in nnunet_names.TRAINERS.values()]
    assert done.stdout.splitlines()[-1] == str(places)


FIND_PLANNER = """
from nnunetv2.experiment_planning.plan_and_preprocess_api import join, nnunetv2, recursive_find_python_class
folder = join(nnunetv2.__path__[0], "experiment_planning")
print(recursive_find_python_class(folder, "SAM3DPlanner", "nnunetv2.experiment_planning").__module__)
"""


def test_our_planner_is_found(registered):
    done = run_python(registered, FIND_PLANNER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["sam3d_nnunet." + nnunet_names.PLANNERS["SAM3DPlanner"]]
