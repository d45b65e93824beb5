import json
import os
import re
from functools import partial

import matplotlib.image
import pytest
import SimpleITK as sitk

from sam3d_nnunet.demo import pipeline
from sam3d_nnunet.demo.phantom import image_geometry, make_phantom
from sam3d_nnunet.demo.pipeline import Command
from sam3d_nnunet.demo.results import BASELINE, OURS, DemoFolder, draw_figure, make_table
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt


@pytest.fixture
def finished(tmp_path):
    """A demo of four cases with made-up predictions: what the methods find is the truth."""
    demo = DemoFolder(tmp_path)
    cases = make_phantom(demo.dataset, seed=0, count=4)
    for dice, folder in zip((0.5, 0.4, 0.9), demo.predictions.values()):
        folder.mkdir(parents=True)
        scores = [{"prediction_file": str(folder / f"{c}.nii.gz"), "metrics": {"1": {"Dice": dice}}} for c in cases]
        scores[1]["metrics"]["1"]["Dice"] = 0.0  # phantom_001 has a look-alike
        (folder / "summary.json").write_text(json.dumps({"metric_per_case": scores}))
        for case in cases:
            truth = sitk.ReadImage(str(demo.dataset / "labelsTr" / f"{case}.nii.gz"))
            sitk.WriteImage(truth, str(folder / f"{case}.nii.gz"))
            middle = image_geometry(truth).to_world([[n / 2 for n in truth.GetSize()[::-1]]])
            write_prompt(Prompt(middle, [1], case), folder / f"{case}.json")
    return demo


def test_table(finished):
    assert make_table(finished).splitlines() == [
        "| Dice | all (4 cases) | without look-alike (2 cases) | with look-alike (2 cases) |",
        "|---|---:|---:|---:|",
        "| nnU-Net, automatic | 0.375 | 0.500 | 0.250 |",
        "| ours, automatic | 0.300 | 0.400 | 0.200 |",
        "| ours, one click | 0.675 | 0.900 | 0.450 |",
    ]


def test_figure(finished):
    draw_figure(finished, finished.figure)
    height, width, _ = matplotlib.image.imread(finished.figure).shape
    assert width > height > 500


def test_folder_in_use_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SAM3DError, match=f"{tmp_path} "):
        pipeline.run_demo(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(SAM3DError, match="thesis.txt"):
        pipeline.run_demo(tmp_path / "thesis.txt")


def test_folder_of_an_earlier_demo_is_refused(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "make_phantom", stop)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_demo(tmp_path)
    with pytest.raises(SAM3DError, match=f"{tmp_path} .*earlier demo"):
        pipeline.run_demo(tmp_path)


@pytest.fixture
def started(tmp_path):
    demo = DemoFolder(tmp_path)
    demo.logs.mkdir()
    pipeline._write_recipe(demo, 3)
    return demo


def test_epochs_go_into_the_recipe(started):
    content = json.loads(started.recipe.read_text())["sam3d"]
    assert content["num_epochs"] == 3
    assert content["preset"] == "tiny"


def stub(monkeypatch, **programs: str) -> None:
    """Replace the programs by code that defines `run`."""
    monkeypatch.setattr(pipeline, "COMMANDS", {name: f"exec({code!r})" for name, code in programs.items()})


def test_failing_command_names_step_log_and_last_lines(started, monkeypatch):
    stub(monkeypatch, nnUNetv2_train="import sys\ndef run(): print('Epoch', *sys.argv[1:]); sys.exit('out of memory')")
    with pytest.raises(SAM3DError) as caught:
        pipeline._run(started, 4, Command("ours", "nnUNetv2_train", ("1", "3d_fullres")))
    for part in ("Step 4", "nnUNetv2_train", "code 1", str(started.log("ours")), "out of memory"):
        assert part in str(caught.value)
    assert "Epoch 1 3d_fullres\n" in started.log("ours").read_text()


def test_commands_run_side_by_side_until_one_fails(started, monkeypatch):
    """The second waits until the first runs, which would go on for longer than anybody waits."""
    runs = "import os, time; print('process', os.getpid(), flush=True); open('runs', 'w').close(); time.sleep(600)"
    fails = "import os, time; [time.sleep(0.02) for _ in iter(lambda: os.path.exists('runs'), True)]; exit(1)"
    stub(monkeypatch, a=f"def run(): {runs}", b=f"def run(): {fails}")
    with pytest.raises(SAM3DError, match=r"\(b\) failed"):
        pipeline._run(started, 4, Command("a", "a", ()), Command("b", "b", ()))
    with pytest.raises(ProcessLookupError):
        os.kill(int(re.search(r"process (\d+)", started.log("a").read_text())[1]), 0)


def test_children_alone_see_the_folders(started, monkeypatch):
    stub(monkeypatch, sam3d="import os; run = lambda: print({k: v for k, v in os.environ.items()})")
    before = dict(os.environ)
    pipeline._run(started, 2, Command("plan", "sam3d", ()), environment={"nnUNet_n_proc_DA": "0"})
    assert dict(os.environ) == before
    seen = started.log("plan").read_text()
    for name, folder in started.environment.items():
        assert f"'{name}': '{folder}'" in seen
    assert "'nnUNet_n_proc_DA': '0'" in seen and "'OMP_WAIT_POLICY': 'PASSIVE'" in seen


@pytest.mark.parametrize(
    "cores, commands, set_by_user, threads", [(8, 1, None, 8), (8, 2, None, 4), (1, 2, None, 1), (8, 2, "3", 3)]
)
def test_commands_share_the_cores(started, monkeypatch, cores, commands, set_by_user, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_by_user:
        monkeypatch.setenv("OMP_NUM_THREADS", set_by_user)
    monkeypatch.setattr(pipeline, "usable_cores", lambda: cores)
    stub(monkeypatch, sam3d="import os; run = lambda: print('threads', os.environ['OMP_NUM_THREADS'])")
    names = "ab"[:commands]
    pipeline._run(started, 4, *(Command(name, "sam3d", ()) for name in names))
    for name in names:
        assert started.log(name).read_text().endswith(f"threads {threads}\n")


def test_progress_of_a_training(capsys):
    pipeline._show_progress(
        [
            "2026-01-01: Epoch 0 \n",
            "2026-01-01: Pseudo dice [np.float32(0.5372)] \n",
            "2026-01-01: Epoch 2 \n",
            "2026-01-01: predicting phantom_003 \n",
            "Preprocessing cases:  33%|###  | 12/36 [00:09<05:33,  9.52s/it]\n",
        ],
        epochs=4,
        name="ours",
    )
    shown = capsys.readouterr().err
    for part in ("ours: epoch 1 of 4", "0.54", "epoch 3 of 4", "predicting phantom_003", "12 of 36", "ours: done"):
        assert part in shown


@pytest.mark.slow
def test_whole_demo(tmp_path, monkeypatch, capsys):
    recipe = load_recipe("demo")
    recipe["sam3d"] |= {"steps_per_epoch": 4, "validation_steps": 1}
    monkeypatch.setattr(pipeline, "load_recipe", lambda name: recipe)
    monkeypatch.setattr(pipeline, "make_phantom", partial(make_phantom, count=10))
    monkeypatch.setitem(pipeline.ENVIRONMENT, "nnUNet_def_n_proc", "1")
    pipeline.run_demo(tmp_path / "new", seed=1, epochs=1)
    demo = DemoFolder(tmp_path / "new")
    for trainer in (BASELINE, OURS):
        assert (demo.model(trainer) / "fold_0" / "checkpoint_final.pth").is_file()
    rows = demo.table.read_text().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(demo.predictions)
    assert matplotlib.image.imread(demo.figure).shape[0] > 500
    assert demo.table.read_text() in capsys.readouterr().out
