import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sam3d_nnunet import __version__
from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet import doctor, registration
from sam3d_nnunet.nnunet.names import TRAINERS, trainer_groups
from sam3d_nnunet.simulation.protocols import FAMILIES

HEAVY = ("torch", "nnunetv2", "numpy", "pydantic", "rich", "pandas")


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, arguments)


def test_version():
    assert invoke("--version").output == f"sam3d_nnunet {__version__}\n"


def all_commands(group: Any, *names: str) -> list[tuple[str, ...]]:
    """Names of each command, with those of the groups it is in."""
    found = []
    for name, command in group.commands.items():
        inside = hasattr(command, "commands")  # typer has click's classes of its own
        found += all_commands(command, *names, name) if inside else [(*names, name)]
    return found


@pytest.mark.parametrize("command", all_commands(typer.main.get_command(cli.app)), ids=" ".join)
def test_help_shows_an_example(command):
    done = invoke(*command, "--help")
    assert done.exit_code == 0
    assert f"Example: sam3d {' '.join(command)}" in done.output


def test_starting_imports_nothing_heavy():
    code = f"import sys, sam3d_nnunet.cli.main; print(set({HEAVY}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_help_lists_all_commands_without_importing_anything_heavy():
    code = f"""
import atexit, sys
from sam3d_nnunet.cli.main import main
atexit.register(lambda: print("imported:", set({HEAVY}) & set(sys.modules)))
sys.argv = ["sam3d", "--help"]
main()
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "imported: set()\n" in shown
    for command, *_ in all_commands(typer.main.get_command(cli.app)):
        assert f"\n  {command}  " in shown


def test_names_in_any_script_can_be_printed_anywhere(tmp_path):
    """As on Windows, where output goes to a file in the system's encoding."""
    code = "import sys; from sam3d_nnunet.cli import main; sys.argv = ['sam3d', '--version']; print('', end='')\n"
    code += "main.__version__ = '\u7ed3\u80a0'; main.main()"
    told = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told)
    assert (done.returncode, done.stdout) == (0, "sam3d_nnunet \\u7ed3\\u80a0\n"), done.stderr


def test_mistakes_of_the_user_are_one_line(monkeypatch, capsys):
    def refuse():
        raise SAM3DError("no nnunetv2: install it.")

    monkeypatch.setattr(registration, "register", refuse)
    monkeypatch.setattr(sys, "argv", ["sam3d", "register"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "Error: no nnunetv2: install it.\n"


def run_main(monkeypatch, *arguments: object) -> int:
    """Exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["sam3d", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


@pytest.mark.parametrize("inside", ["", "deeper"])
@pytest.mark.parametrize("command", ["demo", "predict -i a.nii.gz -m no_model --click 1,2,3"])
def test_output_that_is_no_folder_is_one_line(monkeypatch, tmp_path, capsys, command, inside):
    (tmp_path / "file").write_text("precious")
    assert run_main(monkeypatch, *command.split(), "-o", tmp_path / "file" / inside) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {tmp_path / 'file' / inside}")
    assert (tmp_path / "file").read_text() == "precious"


def failing_register(monkeypatch, error: OSError) -> None:
    def refuse():
        raise error

    monkeypatch.setattr(registration, "register", refuse)


@pytest.mark.parametrize(
    "error, line",
    [
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied. Give another path"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", ".a.part", None, "a"), "a: Is a directory. Give another"),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk: No space left on device. Make room"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "a: No space left on device. Make room"),
    ],
)
def test_refusals_of_the_system_are_one_line(monkeypatch, capsys, error, line):
    failing_register(monkeypatch, error)
    assert run_main(monkeypatch, "register") == 1
    assert capsys.readouterr().err.startswith(f"Error: {line}")


@pytest.mark.parametrize(
    "error", [OSError("libcudart.so: cannot open"), ConnectionResetError(errno.ECONNRESET, "reset")]
)
def test_what_only_a_traceback_explains_is_not_hidden(monkeypatch, error):
    failing_register(monkeypatch, error)
    monkeypatch.setattr(sys, "argv", ["sam3d", "register"])
    with pytest.raises(OSError) as raised:
        cli.main()
    assert raised.value is error


def test_wrong_option_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sam3d", "plan"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "Missing option" in capsys.readouterr().err


def test_register_and_unregister(monkeypatch):
    monkeypatch.setattr(registration, "register", lambda: [Path("a.py")])
    monkeypatch.setattr(registration, "unregister", lambda: [Path("a.py")])
    assert invoke("register").output == "registered: a.py\n"
    assert invoke("unregister").output == "removed: a.py\n"
    monkeypatch.setattr(registration, "unregister", lambda: [])
    assert "nothing to remove" in invoke("unregister").output


@pytest.mark.parametrize("mark, code", [("ok", 0), ("note", 0), ("FAIL", 1)])
def test_doctor(monkeypatch, mark, code):
    findings = [doctor.Finding(mark, "torch", "found"), doctor.Finding("ok", "GPU", "found")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    done = invoke("doctor")
    assert done.exit_code == code
    assert done.output.splitlines() == [str(finding) for finding in findings]


def test_trainers_are_listed_by_group():
    lines = invoke("trainers").output.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*TRAINERS]
    assert [line.rstrip(":") for line in lines if not line.startswith("  ")] == [*trainer_groups()]
    for name, trainer in TRAINERS.items():
        assert any(line.split()[0] == name and line.endswith(trainer.summary) for line in lines)


def test_help_of_protocols_is_that_of_the_registry():
    text = " ".join(invoke("evaluate", "--help").output.split())
    for family in FAMILIES.values():
        assert family.help in text


def stub(monkeypatch, module: str, **functions) -> None:
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**functions))


def test_plan(monkeypatch, tmp_path):
    calls = []
    monkeypatch.chdir(tmp_path)
    file = Path("preprocessed/Dataset004_Hippocampus/MyPlans.json")
    file.parent.mkdir(parents=True)
    own = {name: {"data_identifier": f"MyPlans_{name}"} for name in ("2d", "3d_lowres", "3d_fullres")}
    file.write_text(json.dumps({"configurations": own}))

    def plan_dataset(*arguments):
        calls.append(arguments)
        return file

    stub(monkeypatch, "sam3d_nnunet.planning.plan_dataset", plan_dataset=plan_dataset)
    done = invoke(*"plan -d 4 -d Dataset004_Hippocampus -c 3d_fullres -c 3d_lowres --recipe X --seed 2".split())
    assert done.exit_code == 0, done.output
    assert calls == [
        ("4", "X", None, None, None, 2, None, None),
        ("Dataset004_Hippocampus", "X", None, None, None, 2, None, None),
    ]
    assert done.output.splitlines()[:2] == [
        "plans: preprocessed/Dataset004_Hippocampus/MyPlans.json",
        "next: nnUNetv2_preprocess -d 4 -plans_name MyPlans -c 3d_fullres 3d_lowres",
    ]

    done = invoke(*"plan -d 4 --preset tiny --overwrite-plans-name MyPlans --spacing 1 0.8 0.8".split())
    assert calls[-1] == ("4", None, "MyPlans", (1, 0.8, 0.8), "tiny", None, None, None)
    assert done.output.endswith("-c 3d_fullres\n")

    done = invoke(*"plan -d 4 -c 3d_fullress".split())
    assert isinstance(done.exception, SAM3DError)
    assert "no configuration '3d_fullress'; it has 2d, 3d_lowres, 3d_fullres" in str(done.exception)

    settings = {"clicks": {"iterated_share": 0}}
    done = invoke("plan", "-d", "4", "--settings", json.dumps(settings), "--data-plans", "SAM3DPlans")
    assert calls[-1] == ("4", None, None, None, None, None, settings, "SAM3DPlans")

    # preprocessing would delete data that other plans have made
    file.write_text(json.dumps({"configurations": {"3d_fullres": {"data_identifier": "SAM3DPlans_3d_fullres"}}}))
    shared = file.with_name("SAM3DPlans_3d_fullres")
    assert "next: nnUNetv2_preprocess" in invoke("plan", "-d", "4").output
    shared.mkdir()
    assert invoke("plan", "-d", "4").output.splitlines()[1:] == [
        f"preprocessed data: {shared}",
        "next: nnUNetv2_train 4 3d_fullres 0 -tr SAM3DAdapterTrainer -p MyPlans",
    ]


@pytest.mark.parametrize("text, message", [("{", "is no JSON"), ("[1]", "must be a JSON object")])
def test_settings_that_are_no_json_object(text, message):
    done = invoke("plan", "-d", "4", "--settings", text)
    assert done.exit_code == 2 and message in " ".join(done.output.split())


def test_demo(monkeypatch, tmp_path):
    calls = []
    stub(monkeypatch, "sam3d_nnunet.demo.pipeline", run_demo=lambda *arguments: calls.append(arguments))
    done = invoke("demo", "-o", str(tmp_path), "--epochs", "3", "--seed", "7", "--device", "cuda")
    assert done.exit_code == 0, done.output
    assert calls == [(tmp_path, 7, 3, "cuda")]
    assert str(tmp_path) in done.output

    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert str(tmp_path / "sam3d_demo_") in invoke("demo").output
    assert calls[-1] == (tmp_path / "sam3d_demo_", 0, None, "cpu")
    assert invoke("demo", "--device", "abacus").exit_code == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--click 1,2,3", "(-m)"),
        ("-m folder -d 4 --click 1,2,3", "(-d)"),
        ("-m folder --instances", "--instances"),
        ("-m folder --dtype fp16", "fp16"),
        ("-m folder --max-windows 0", "max-windows"),
    ],
)
def test_predict_refuses_what_does_not_go_together(arguments, message):
    done = invoke("predict", "-i", "image.nii.gz", "-o", "out", *arguments.split())
    assert done.exit_code == 2
    assert message in done.output
