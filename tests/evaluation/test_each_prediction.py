"""The protocol each_N: lesions are predicted one at a time."""

import shutil

import cc3d
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from evaluated_fixtures import CASES
from hypothesis import given
from hypothesis import strategies as st

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.drawn_prompts import draw_prompts
from sam3d_nnunet.evaluation.each_prediction import ObjectScores, clicks_by_lesion
from sam3d_nnunet.evaluation.evaluate import evaluate
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

QUICK = PredictionOptions("cpu", mirroring=False)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_scores_are_those_of_their_definition(seed, count):
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.5, 3, 3)
    numbers = np.zeros((6, 7, 8), np.uint32)
    for number in range(1, count + 1):
        numbers[2 * number - 2 : 2 * number - 1, 1:6, rng.integers(0, 3) : 7] = number
    count = int(numbers.max())
    found = [(numbers == number) ^ (rng.random(numbers.shape) < 0.2) for number in range(1, count + 1)]
    clicks = [rng.choice(np.argwhere(numbers == number), 2).astype(float) for number in range(1, count + 1)]
    scores = ObjectScores(numbers, spacing)
    for number in range(1, count + 1):
        scores.add(number, found[number - 1], clicks[number - 1])
    means, objects = scores.means(), [numbers == number for number in range(1, count + 1)]
    each = [dice(mask, wanted) for mask, wanted in zip(found, objects)]
    assert means["object_dice"] == pytest.approx(np.mean(each))
    assert means["lowest_object_dice"] == pytest.approx(min(each)) and means["objects"] == count
    pairs = [(m & o).sum() / o.sum() for i, m in enumerate(found) for j, o in enumerate(objects) if i != j]
    assert np.isnan(means["others_marked"]) if count == 1 else means["others_marked"] == pytest.approx(np.mean(pairs))
    owner = np.zeros(numbers.shape, int)
    for voxel in np.argwhere(np.any(found, axis=0)):
        near = [np.linalg.norm((of_one - voxel) * spacing, axis=1).min() for of_one in clicks]
        owner[tuple(voxel)] = 1 + min((i for i in range(count) if found[i][tuple(voxel)]), key=lambda i: near[i])
    instances = [dice(owner == number, numbers == number) for number in range(1, count + 1)]
    assert means["instance_dice"] == pytest.approx(np.mean(instances), abs=0.02)  # float32 decides equal distances


def test_nothing_found_is_dice_0():
    numbers = np.zeros((3, 3, 3), np.uint32)
    numbers[0], numbers[2] = 1, 2
    scores = ObjectScores(numbers, (1, 1, 1))
    for number in (1, 2):
        scores.add(number, np.zeros(numbers.shape, bool), np.zeros((1, 3)))
    assert scores.means() == {
        "objects": 2,
        "object_dice": 0,
        "lowest_object_dice": 0,
        "others_marked": 0,
        "instance_dice": 0,
    }


def test_clicks_belong_to_lesions_in_their_order():
    prompt = Prompt(np.zeros((5, 3)), [1] * 5, "a")
    assert [part.tolist() for part in clicks_by_lesion(prompt, [100, 1, 7], 2)] == [[0, 1], [2], [3, 4]]
    assert clicks_by_lesion(Prompt(np.zeros((0, 3)), [], "a"), [], 2) == []
    with pytest.raises(SAM3DError, match=r"5 clicks on a, but its 2 lesion\(s\) need 4.*drawn again"):
        clicks_by_lesion(prompt, [100, 7], 2)


@pytest.mark.parametrize("kind", ["classes", "ignore"])
def test_each_lesion_is_predicted_from_its_own_click_alone(make_evaluated, read, tmp_path, kind):
    """The scores are those of predictions by hand; what is written is their union, with all clicks beside it."""
    model, root = make_evaluated(kind), tmp_path / "evaluated"
    assert evaluate(model.folder, root, ["0"], ["each_1", "lesion_1"], 1, QUICK) == []
    folder = root / model.folder.name / "each_1/fold_0/trial_0"
    scores = pd.read_csv(folder / "scores.csv").set_index("case")
    predictor = SAM3DPredictor("cpu", use_mirroring=False)
    predictor.initialize_from_trained_model_folder(model.folder)
    for case in CASES:
        truth = read(model.labels / f"{case}.nii.gz")
        counted = truth < 3  # 3 is ignored
        truth *= counted
        drawn = read_prompt(root / f"prompts/each_1/trial_0/{case}.json")
        assert (drawn.points == read_prompt(root / f"prompts/lesion_1/trial_0/{case}.json").points).all()
        lesions = cc3d.connected_components(truth, connectivity=26)
        each, union = [], np.zeros(truth.shape, bool)
        for point, label in zip(drawn.points, drawn.labels):
            alone = Prompt(point[None], [label], case)
            found = predictor.predict_case([model.images / f"{case}_0000.nii.gz"], alone).segmentation()
            wanted = lesions == lesions[tuple(np.rint(point[::-1]).astype(int))]  # spacing 1, origin 0
            each.append(dice((found == label) & counted, wanted))
            union |= found > 0
        assert len(each) > 1 and scores.loc[case, "objects"] == len(each)
        assert scores.loc[case, "object_dice"] == pytest.approx(np.mean(each))
        assert ((read(folder / f"{case}.nii.gz") > 0) == union).all()
        assert (read_prompt(folder / f"{case}.json").points == drawn.points).all()
        costs = Results(root).costs.query("case == @case and protocol == 'each_1'")
        assert costs["clicks_given"].tolist() == [len(each)]
    truths = [read(model.labels / f"{case}.nii.gz") for case in CASES]
    assert scores["truth_voxels"].tolist() == [((truth > 0) & (truth < 3)).sum() for truth in truths]


def test_off_target_and_human_clicks(make_evaluated, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    names = ["each_2_off50_4mm", "each_1_human"]
    assert evaluate(model.folder, root, ["0"], names, 2, QUICK) == []
    for name in names:
        for trial in (0, 1):
            table = pd.read_csv(root / model.folder.name / f"{name}/fold_0/trial_{trial}/scores.csv")
            assert sorted(table["case"]) == sorted(CASES) and table["object_dice"].between(0, 1).all()


def test_per_lesion_is_refused(make_evaluated, tmp_path):
    model = make_evaluated()
    options = PredictionOptions("cpu", mirroring=False, per_lesion=True)
    with pytest.raises(SAM3DError, match="each_1 says itself which lesions are predicted together"):
        evaluate(model.folder, tmp_path, ["0"], ["each_1"], 1, options)


def test_changed_clicks_cost_one_case(make_evaluated, tmp_path, capsys):
    """Too few clicks in a file: a sentence about this case, and the others are measured."""
    model, root = make_evaluated(), tmp_path / "evaluated"
    draw_prompts(model.dataset, root, ["each_1"], 1, ["0"])
    file = root / f"prompts/each_1/trial_0/{CASES[1]}.json"
    drawn = read_prompt(file)
    write_prompt(Prompt(drawn.points[:1], drawn.labels[:1], drawn.image), file)
    failed = evaluate(model.folder, root, ["0"], ["each_1"], 1, QUICK)
    assert len(failed) == 1 and CASES[1] in failed[0]
    assert "1 clicks on" in capsys.readouterr().err


def test_scores_of_another_truth_are_told(make_evaluated, read, tmp_path, monkeypatch, capsys):
    """Metrics are computed again when a label map is corrected; scores come with the predictions."""
    model, root = make_evaluated(), tmp_path / "evaluated"
    raw = tmp_path / "raw"
    shutil.copytree(model.labels.parents[1], raw)
    monkeypatch.setenv("nnUNet_raw", str(raw))
    assert evaluate(model.folder, root, ["0"], ["each_1"], 1, QUICK) == []
    assert evaluate(model.folder, root, ["0"], ["each_1"], 1, QUICK) == []
    file = raw / model.labels.parent.name / f"labelsTr/{CASES[1]}.nii.gz"
    image = sitk.ReadImage(str(file))
    less = sitk.GetImageFromArray(np.where(np.arange(image.GetSize()[0]) > 9, 0, sitk.GetArrayFromImage(image)))
    less.CopyInformation(image)
    sitk.WriteImage(less, str(file))
    (told,) = evaluate(model.folder, root, ["0"], ["each_1"], 1, QUICK)
    assert CASES[1] in told and "Delete the case's predictions and its drawn clicks" in capsys.readouterr().err
    (root / model.folder.name / f"each_1/fold_0/trial_0/{CASES[1]}.nii.gz").unlink()
    (root / f"prompts/each_1/trial_0/{CASES[1]}.json").unlink()
    assert evaluate(model.folder, root, ["0"], ["each_1"], 1, QUICK) == []
