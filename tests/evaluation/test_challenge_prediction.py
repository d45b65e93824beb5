"""The protocol cvpr25 with a network: what it sees, clicks, writes and scores. `test_cvpr25` has the rules."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from evaluated_fixtures import CASES

from sam3d_nnunet.evaluation import cvpr25
from sam3d_nnunet.evaluation.evaluate import evaluate
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import to_grid
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.session_image import box_points
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

QUICK = PredictionOptions("cpu", mirroring=False)
PLACE = "cvpr25/fold_0/trial_0"
ROUNDS = range(6)  # the first one gets boxes
IGNORED = 3


@pytest.fixture
def seen(monkeypatch) -> list[tuple]:
    """Image, dense prompts and result of each prediction."""
    calls, predict = [], SAM3DPredictor.predict_read

    def spy(self, case, prompt, **more):
        prediction = predict(self, case, prompt, **more)
        calls.append((case, more["maps"].cut(case.grid.box), prediction))
        return prediction

    monkeypatch.setattr(SAM3DPredictor, "predict_read", spy)
    return calls


def replayed(truth: np.ndarray, predictions: list[np.ndarray]) -> dict:
    """What the rules give for these predictions."""
    later = iter(predictions[1:])
    return cvpr25.run(truth, predictions[0], lambda *_: next(later), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_clicks_and_scores_are_those_of_the_rules(make_evaluated, read, tmp_path, kind):
    """Predictions are read from their files, and every label map lies as its file does."""
    model, root = make_evaluated(kind), tmp_path / "evaluated"
    assert evaluate(model.folder, root, ["0"], ["cvpr25"], 3, QUICK) == []
    folder = root / model.folder.name / PLACE
    assert [place.name for place in folder.parent.iterdir()] == ["trial_0"]  # nothing is drawn at random
    scores = pd.read_csv(folder / "after_5/scores.csv").set_index("case")
    for case in CASES:
        truth = read(model.labels / f"{case}.nii.gz")
        counted = truth != IGNORED
        truth = truth * counted
        result = replayed(truth, [read(folder / f"after_{k}/{case}.nii.gz") * counted for k in ROUNDS])
        for name in ("dsc", "nsd"):
            assert [scores.loc[case, f"round_{k}_{name}"] for k in ROUNDS] == pytest.approx(result[name])
            assert scores.loc[case, f"{name}_auc"] == pytest.approx(result[f"{name}_auc"])
            assert scores.loc[case, f"{name}_final"] == pytest.approx(result[name][5])
        assert scores.loc[case, "truth_voxels"] == (truth > 0).sum()
        classes = cvpr25.classes_of(truth)
        points = [box_points(Box.from_mask(truth == label))[0] for label in classes]
        labels = list(classes)
        for k, new in enumerate([[], *result["clicks"]]):
            points += [voxel for _, _, voxel in new]
            labels += [truth[tuple(voxel)] for _, _, voxel in new]
            prompt = read_prompt(folder / f"after_{k}/{case}.json")
            assert prompt.points[:, ::-1] == pytest.approx(np.array(points))  # spacing 1, origin 0
            assert prompt.labels.tolist() == labels
        costs = Results(root).costs.query("case == @case").set_index("clicks")["clicks_given"]
        assert [costs[k] for k in ROUNDS] == np.cumsum([0, *map(len, result["clicks"])]).tolist()


def test_boxes_stay_and_the_last_prediction_is_the_previous_mask(make_evaluated, tmp_path, seen):
    model = make_evaluated()
    assert evaluate(model.folder, tmp_path / "evaluated", ["0"], ["cvpr25"], 1, QUICK) == []
    assert len(seen) == len(CASES) * len(ROUNDS)
    for number, (case, maps, _) in enumerate(seen):
        assert (maps[SCRIBBLE] == NOTHING).all()
        if number % len(ROUNDS) == 0:
            first, truth = maps[BOX], sitk.ReadImage(str(model.labels / f"{CASES[number // len(ROUNDS)]}.nii.gz"))
            truth = to_grid(sitk.GetArrayFromImage(truth), case.grid)
            assert (maps[MASK] == NOTHING).all()
            boxes = {label: Box.from_mask(truth == label) for label in (1, 2)}
            small, large = sorted(boxes, key=lambda label: np.prod(boxes[label].shape))
            assert Box.from_mask(first == small) == boxes[small]
            assert (first[boxes[small].slices] == small).all()
            drawn = first[boxes[large].slices]
            assert ((drawn == large) | (drawn == small)).all() and (first == large).any()
            assert (np.delete(np.unique(first), 0) == [1, 2]).all()
        else:
            assert (maps[BOX] == first).all()
            assert (maps[MASK] == to_grid(seen[number - 1][2].segmentation(), case.grid)).all()


def test_without_background_clicks_and_dense_prompts(make_evaluated, read, tmp_path):
    unlabelled = {"settings": {"labelled_prompts": False, "clicks": {"policy": "paper"}}}
    model = make_evaluated("one class", trainer_class=SAM3DAdapterTrainer, **unlabelled)
    root = tmp_path / "evaluated"
    assert evaluate(model.folder, root, ["0"], ["cvpr25"], 1, QUICK) == []
    folder = root / model.folder.name / PLACE
    for case in CASES:
        truth = read(model.labels / f"{case}.nii.gz")
        predictions = [read(folder / f"after_{k}/{case}.nii.gz") for k in ROUNDS]
        result = replayed(truth * (truth == 1), predictions)
        for k, new in enumerate(result["clicks"]):
            before, after = (read_prompt(folder / f"after_{step}/{case}.json") for step in (k, k + 1))
            assert len(after.points) - len(before.points) == sum(kind == "fg" for _, kind, _ in new)
            if len(after.points) == len(before.points):
                assert (predictions[k] == predictions[k + 1]).all()
        first = read_prompt(folder / f"after_0/{case}.json")
        assert first.points[:, ::-1] == pytest.approx(box_points(Box.from_mask(truth == 1)))


def test_a_case_without_classes_has_no_scores(make_evaluated, read, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    labels = tmp_path / "labelsTs"
    labels.mkdir()
    images = tmp_path / "imagesTs"
    images.mkdir()
    for case, new in zip(CASES, ("a", "b")):
        label_map = sitk.ReadImage(str(model.labels / f"{case}.nii.gz"))
        sitk.WriteImage(label_map * (new == "a"), str(labels / f"{new}.nii.gz"))
        (images / f"{new}_0000.nii.gz").symlink_to(model.images / f"{case}_0000.nii.gz")
    assert evaluate(model.folder, root, ["0"], ["cvpr25"], 1, QUICK, test=(images, labels)) == []
    folder: Path = root / model.folder.name / "cvpr25/fold_test/trial_0"
    assert not any(read(folder / f"after_{k}/b.nii.gz").any() for k in ROUNDS)
    assert pd.read_csv(folder / "after_5/scores.csv")["case"].tolist() == ["a"]
