"""The benchmark of the first click, on a volume of some thousand voxels."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from types import SimpleNamespace

import first_click
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from first_click import Stages, Volume

OPTIONS = Namespace(patch=32, unet_features=2, models=["tiny"], endings=[".nii.gz", ".mha"], ways=["predict", "nnunet"])
SMALL = Volume((40, 36, 30), (1.2, 1.2, 1.5), "CTNormalization", -1024, 40, 130, 15, radii=(8, 7, 6))


def test_a_stage_does_not_count_the_stages_inside_it(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    readings = {"perf_counter": lambda: clock.now, "process_time": lambda: 2 * clock.now}
    monkeypatch.setattr(first_click, "time", SimpleNamespace(**readings))

    def work(seconds: float) -> None:
        clock.now += seconds

    owner, stages = SimpleNamespace(work=work), Stages()
    with stages.watch((owner, "work", "inner")), stages.stage("outer"):
        owner.work(3)
        work(1)
        owner.work(4)
    owner.work(50)  # no longer watched
    seconds = {name: (stage.seconds, stage.cpu_seconds) for name, stage in stages.found.items()}
    assert seconds == {"inner": (7, 14), "outer": (1, 2)}


MEMORY = """
import json, runpy, numpy as np
first_click = runpy.run_path({script!r})
stages = first_click["Stages"]()
with stages.stage("outer"):
    with stages.stage("before"):
        pass
    with stages.stage("large"):
        np.ones(100 * first_click["MIB"], np.uint8)
    with stages.stage("after"):
        pass
print(json.dumps({{name: stage.mib for name, stage in stages.found.items()}}))
"""


def test_memory_of_a_stage_is_the_most_at_any_moment_of_it():
    """In a process of its own, as in the benchmark: this one may have more free memory than it asks for."""
    code = MEMORY.format(script=first_click.__file__)
    memory = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert memory["large"] > memory["before"] + 90
    assert memory["after"] < memory["large"] - 90
    assert memory["outer"] == memory["large"]


def test_a_command_is_measured_with_its_children():
    inner = f"import time; x = b'1' * {200 * first_click.MIB}; time.sleep(1)"
    outer = (
        f"import subprocess, sys; x = b'1' * {100 * first_click.MIB}; subprocess.run([sys.executable, '-c', {inner!r}])"
    )
    cost = first_click.measure([sys.executable, "-c", outer], {})
    assert cost["seconds"] >= 1
    assert 300 <= cost["mib"] < 400
    assert 0 < cost["cpu_seconds"] < cost["seconds"]


def test_a_command_that_fails_stops_the_benchmark():
    with pytest.raises(SystemExit, match="no such thing"):
        first_click.measure([sys.executable, "-c", "raise SystemExit('no such thing')"], {})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return first_click.write_images(SMALL, tmp_path_factory.mktemp("images") / "images", OPTIONS.endings)


def test_the_image_has_an_object_at_the_click_and_air_outside(files):
    images = [sitk.ReadImage(str(files[ending])) for ending in OPTIONS.endings]
    voxels, same = map(sitk.GetArrayFromImage, images)
    assert voxels.dtype == np.int16
    assert np.array_equal(voxels, same)
    assert images[0].GetSpacing() == pytest.approx(SMALL.spacing)
    x, y, z = SMALL.click
    around = voxels[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
    assert abs(around.mean() - SMALL.object) < SMALL.noise
    assert voxels[z, 0, 0] == SMALL.outside
    assert not np.array_equal(voxels[0], voxels[1])


@pytest.mark.parametrize("way", ["predict", "predict_whole"])
def test_every_stage_of_a_prediction_is_measured(way, files, tmp_path):
    first_click.write_model(tmp_path / "results", "tiny", SMALL, ".nii.gz", OPTIONS)
    model = first_click.model_folder(tmp_path / "results", "tiny")
    task = {"model": str(model), "image": str(files[".nii.gz"]), "click": SMALL.click, "output": str(tmp_path / "out")}
    began = time.perf_counter()
    found = getattr(first_click, way)(task)["stages"]
    passed = time.perf_counter() - began
    assert set(found) == set(first_click.STAGES)
    assert all(cost["seconds"] > 0 and cost["mib"] > 100 for cost in found.values())
    assert passed / 2 < sum(cost["seconds"] for cost in found.values()) <= passed
    assert (tmp_path / "out" / "case.nii.gz").is_file()


def test_the_whole_way_preprocesses_all_voxels(files, tmp_path, monkeypatch, capsys):
    first_click.write_model(tmp_path / "results", "tiny", SMALL, ".nii.gz", OPTIONS)
    model = first_click.model_folder(tmp_path / "results", "tiny")
    task = {"model": str(model), "image": str(files[".nii.gz"]), "click": SMALL.click, "output": str(tmp_path / "out")}
    first_click.predict(task)
    assert "whole image" not in capsys.readouterr().out
    first_click.predict_whole(task)
    assert "whole image" in capsys.readouterr().out


def test_clicks_in_a_session_and_the_floor_are_measured(files, tmp_path):
    first_click.write_model(tmp_path / "results", "tiny", SMALL, ".nii.gz", OPTIONS)
    model = first_click.model_folder(tmp_path / "results", "tiny")
    image = str(files[".nii.gz"])
    task = {"model": str(model), "image": image, "click": SMALL.click, "files": list(map(str, files.values()))}
    clicked = first_click.click_in_session(task)["stages"]
    assert {"copy of the image", "set_image", "first click", "second click"} <= set(clicked)
    floor = first_click.measure_floor(task | {"unet_features": 4})["stages"]
    networks = {"encoding one window", "one window of the U-Net"}
    assert set(floor) == {"reading .nii.gz", "reading .mha", *networks}


def test_nnunet_can_load_the_unet(tmp_path):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    first_click.write_model(tmp_path, "U-Net", SMALL, ".nii.gz", OPTIONS)
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(first_click.model_folder(tmp_path, "U-Net")), ("0",))
    assert predictor.configuration_manager.network_arch_init_kwargs["features_per_stage"][0] == OPTIONS.unet_features
    assert predictor.allowed_mirroring_axes is None


def test_operations_of_the_unet_grow_with_the_square_of_its_features():
    windows, work = first_click.unet_work(first_click.VOLUMES["ct"], 128, 8)
    assert windows == 5 * 5 * 6  # 358 x 358 x 420 voxels of 1 mm, at most 64 apart
    assert 14 < first_click.unet_work(first_click.VOLUMES["ct"], 128, 32)[1] / work < 17


def test_tasks_share_what_does_not_depend_on_the_model():
    options = Namespace(models=["tiny", "vit_b"], endings=[".nii.gz", ".mha"], ways=first_click.WAYS)
    tasks = list(first_click.tasks_of(options))
    assert len(tasks) == len(set(tasks)) == 9
    assert [task for task in tasks if task[0] == "nnunet"] == [("nnunet", "U-Net", ".nii.gz")]
    assert [task for task in tasks if task[0] == "whole"] == [("whole", "tiny", ".nii.gz")]


def test_ratios_are_of_one_run(capsys):
    stages = {name: {"seconds": 1.0, "mib": 100.0} for name in first_click.STAGES}
    ours = {"way": "predict", "model": "tiny", "ending": ".nii.gz", "seconds": 9.0, "cpu_seconds": 8.0, "mib": 500.0}
    theirs = ours | {"way": "nnunet", "model": "U-Net", "seconds": 90.0, "cpu_seconds": 32.0, "mib": 1000.0}
    records = json.loads(json.dumps([ours | {"stages": stages}, theirs]))
    first_click.show("ct", SMALL, records, OPTIONS)
    printed = capsys.readouterr().out
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in printed.splitlines()
        if "|" in line
    }
    assert rows["all but reading and network"] == ["5.00", ""]
    assert rows["all but these, start and model"] == ["3.00", ""]
    assert rows["seconds / nnU-Net's"] == ["0.100", "1.000"]
    assert rows["processor time / nnU-Net's"] == ["0.250", "1.000"]
    assert rows["memory / nnU-Net's"] == ["0.500", "1.000"]
