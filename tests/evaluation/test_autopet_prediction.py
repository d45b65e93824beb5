"""The protocols autopet_N and ..._human with a network: what it sees, clicks, writes and scores."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from evaluated_fixtures import CASES
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation import autopet, cvpr25
from sam3d_nnunet.evaluation.challenge_prediction import RULES, _correction
from sam3d_nnunet.evaluation.drawn_prompts import draw_prompts
from sam3d_nnunet.evaluation.evaluate import evaluate
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.geometry.grid import to_grid
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.prompts.prompt import MASK
from sam3d_nnunet.simulation import human
from sam3d_nnunet.simulation.autopet_clicks import autopet_clicks
from sam3d_nnunet.simulation.protocols import FAMILIES
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

QUICK = PredictionOptions("cpu", mirroring=False)
ROUNDS = range(3)
SPACING = (1.0, 1.0, 1.0)


def test_each_challenge_has_rules():
    assert list(RULES) == [name for name, family in FAMILIES.items() if family.challenge]


def test_clicks_and_scores_are_those_of_the_rules(make_evaluated, read, tmp_path):
    """Predictions are read from their files. Round 0 is the automatic prediction."""
    model, root = make_evaluated("one class"), tmp_path / "evaluated"
    assert evaluate(model.folder, root, ["0"], ["automatic", "autopet_2"], 3, QUICK) == []
    automatic, folder = (root / model.folder.name / name / "fold_0/trial_0" for name in ("automatic", "autopet_2"))
    assert [place.name for place in folder.parent.iterdir()] == ["trial_0"]  # no draw of ours
    scores = pd.read_csv(folder / "after_2/scores.csv").set_index("case")
    for case in CASES:
        truth, image = read(model.labels / f"{case}.nii.gz"), read(model.images / f"{case}_0000.nii.gz")
        points, labels, _ = autopet_clicks(truth, image, 1, 2)
        drawn = read_prompt(root / f"prompts/autopet_2/trial_0/{case}.json")
        assert drawn.points[:, ::-1] == pytest.approx(points) and drawn.labels.tolist() == labels.tolist() == [1, 0] * 2
        predictions = [read(folder / f"after_{k}/{case}.nii.gz") for k in ROUNDS]
        assert (predictions[0] != read(automatic / f"{case}.nii.gz")).mean() < 1e-3
        later = iter(predictions[1:])
        result = autopet.run(truth, predictions[0], lambda *_, later=later: next(later), SPACING, [[], []])
        for name in ("dsc", "fpv", "fnv"):
            assert [scores.loc[case, f"round_{k}_{name}"] for k in ROUNDS] == pytest.approx(result[name])
            for end in ("auc", "final"):
                assert scores.loc[case, f"{name}_{end}"] == pytest.approx(result[f"{name}_{end}"])
        assert scores.loc[case, "truth_voxels"] == truth.sum()
        for k in ROUNDS:
            used = read_prompt(folder / f"after_{k}/{case}.json")
            assert used.points[:, ::-1] == pytest.approx(points[: 2 * k]) and used.labels.tolist() == [1, 0] * k
        costs = Results(root).costs.query("case == @case and protocol == 'autopet_2'")
        assert costs.set_index("clicks")["clicks_given"].to_dict() == {0: 0, 1: 2, 2: 4}


def test_rounds_change_the_mask_in_their_windows_only(make_evaluated, read, tmp_path, monkeypatch):
    """Elsewhere it stays as it was without clicks. The last mask is the previous one of the next prediction."""
    model, calls, predict = make_evaluated("one class"), [], SAM3DPredictor.predict_read

    def spy(self, case, prompt, **more):
        found = predict(self, case, prompt, **more)
        calls.append((case, more["maps"].cut(case.grid.box), found))
        return found

    def all_marked(self, data):
        logits = torch.zeros((2, *data.shape[1:]))
        logits[1] = 1
        return logits

    monkeypatch.setattr(SAM3DPredictor, "predict_read", spy)
    monkeypatch.setattr(nnUNetPredictor, "predict_logits_from_preprocessed_data", all_marked)
    options = replace(QUICK, max_windows=1)
    assert evaluate(model.folder, tmp_path / "evaluated", ["0"], ["autopet_2"], 1, options) == []
    folder = tmp_path / "evaluated" / model.folder.name / "autopet_2/fold_0/trial_0"
    assert len(calls) == 2 * len(CASES)
    left = 0
    for number, (case, maps, found) in enumerate(calls):
        name, k = CASES[number // 2], number % 2
        first, last, now = (read(folder / f"after_{step}/{name}.nii.gz") for step in (0, k, k + 1))
        assert first.all() and (maps[MASK] == to_grid(last, case.grid)).all()
        inside = np.zeros(first.shape, bool)
        for window in found.logits.windows:
            inside[case.grid.box_in_image(window.in_image(found.logits.shape)).slices] = True
        assert (now == np.where(inside, found.segmentation(), 1)).all()
        left += (~inside).sum()
    assert left > 0


def test_without_background_clicks_and_dense_prompts(make_evaluated, read, tmp_path):
    unlabelled = {"settings": {"labelled_prompts": False, "clicks": {"policy": "paper"}}}
    model = make_evaluated("one class", trainer_class=SAM3DAdapterTrainer, **unlabelled)
    assert evaluate(model.folder, tmp_path / "evaluated", ["0"], ["autopet_2"], 1, QUICK) == []
    folder = tmp_path / "evaluated" / model.folder.name / "autopet_2/fold_0/trial_0"
    for case in CASES:
        assert [len(read_prompt(folder / f"after_{k}/{case}.json").points) for k in ROUNDS] == [0, 1, 2]


def test_a_case_without_lesion_keeps_its_automatic_prediction(make_evaluated, read, tmp_path):
    """Its volumes count, its Dice is undefined: clicks on background alone don't say what to look for."""
    model = make_evaluated("one class")
    for folder in ("labelsTs", "imagesTs"):
        (tmp_path / folder).mkdir()
    label_map = sitk.ReadImage(str(model.labels / f"{CASES[0]}.nii.gz"))
    sitk.WriteImage(label_map * 0, str(tmp_path / "labelsTs/a.nii.gz"))
    (tmp_path / "imagesTs/a_0000.nii.gz").symlink_to(model.images / f"{CASES[0]}_0000.nii.gz")
    test = (tmp_path / "imagesTs", tmp_path / "labelsTs")
    assert evaluate(model.folder, tmp_path / "evaluated", ["0"], ["autopet_2"], 1, QUICK, test=test) == []
    folder = tmp_path / "evaluated" / model.folder.name / "autopet_2/fold_test/trial_0"
    found = [read(folder / f"after_{k}/a.nii.gz") for k in ROUNDS]
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    row = pd.read_csv(folder / "after_2/scores.csv").iloc[0]
    assert np.isnan(row["dsc_final"]) and row["fpv_final"] == pytest.approx(found[0].sum() / 1000)
    assert row["fpv_auc"] == pytest.approx(2 * row["fpv_final"]) and row["fnv_final"] == 0


def test_several_classes_are_refused(make_evaluated, tmp_path):
    model = make_evaluated()
    expected = "autopet_3 is about data sets with one class, but Dataset711_Classes has 2.*sam3d dataset target"
    with pytest.raises(SAM3DError, match=expected):
        evaluate(model.folder, tmp_path, ["0"], ["volume_1", "autopet_3"], 1, QUICK)
    with pytest.raises(SAM3DError, match=expected):
        draw_prompts(model.dataset, tmp_path / "drawn", ["autopet_3"])
    assert not (tmp_path / "drawn").exists()


def test_clicks_of_a_person_differ_from_trial_to_trial(make_evaluated, tmp_path, monkeypatch):
    """Also those on errors, which are drawn during the prediction."""
    monkeypatch.setattr(human, "WRONG_SIDE", 1.0)
    model, steps = make_evaluated("one class"), {"iterated_2_human": 2, "cvpr25_human": 5}
    assert evaluate(model.folder, tmp_path / "a", ["0"], list(steps), 2, QUICK) == []
    assert evaluate(model.folder, tmp_path / "b", ["0"], list(steps), 1, QUICK) == []
    for protocol, last in steps.items():
        for case in CASES:
            first, other, again = (
                read_prompt(tmp_path / root / model.folder.name / protocol / f"fold_0/{trial}/after_{last}/{case}.json")
                for root, trial in (("a", "trial_0"), ("a", "trial_1"), ("b", "trial_0"))
            )
            assert np.array_equal(first.points, again.points) and np.array_equal(first.labels, again.labels)
            assert not np.array_equal(first.points, other.points)


def test_what_a_click_beside_the_error_says():
    """Its class if it is meant so; on a surplus never its class, whatever lies under the click."""
    truth = np.zeros((1, 1, 3), int)
    truth[0, 0] = [0, 1, 2]
    said = {(kind, w): _correction(1, kind, (0, 0, w), np.zeros(3), truth) for kind in ("fg", "bg") for w in range(3)}
    assert [said["fg", w].truth for w in range(3)] == [1, 1, 1]
    assert [said["bg", w].truth for w in range(3)] == [0, 0, 2]
    assert all(click.missed == (kind == "fg") and click.label == 1 for (kind, _), click in said.items())


def test_a_hand_clicks_on_the_part_of_the_error_that_the_robot_means():
    """An error of missed and surplus voxels that touch; `cvpr25.run` gives the hand one kind of them."""
    truth, found = np.zeros((2, 9, 9, 9), np.uint8)
    truth[1:6, 1:6, 1:6] = 1
    found[6:8, 1:6, 1:6] = 1
    seen = []

    def hand(mask):
        seen.append(mask)
        return (8, 8, 8)

    assert cvpr25.next_clicks(truth, found, [1], hand) == [(1, "fg", (8, 8, 8))]
    assert np.array_equal(seen[0], truth == 1)
    assert cvpr25.next_clicks(truth, found, [1])[0][1] == "fg"
