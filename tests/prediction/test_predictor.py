import numpy as np
import pytest
import SimpleITK as sitk
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

CLICKS = Prompt([[12, 10, 8], [4, 7, 9], [15, 3, 12]], [1, 2, 0], "case_1")
UNLABELLED = {"labelled_prompts": False, "clicks": {"policy": "paper"}}


def predictor_of(folder, folds=None, **options) -> SAM3DPredictor:
    predictor = SAM3DPredictor("cpu", "fp32", **options)
    predictor.initialize_from_trained_model_folder(folder, folds)
    return predictor


def image_of(model, case="case_1"):
    return [model.images / f"{case}_0000.nii.gz"]


@pytest.mark.parametrize("kind", ["classes", "regions", "one class", "ignore"])
def test_prediction_has_the_shape_and_labels_of_the_image(make_model, kind):
    model = make_model(kind)
    predictor = predictor_of(model.folder)
    prompt = Prompt(CLICKS.points, np.minimum(CLICKS.labels, predictor.model.click_labels[-1]), "case_1")
    prediction = predictor.predict_case(image_of(model), prompt)
    segmentation = prediction.segmentation()
    assert segmentation.shape == prediction.case.shape == (20, 18, 22)
    assert len(np.unique(segmentation)) > 1
    assert set(np.unique(segmentation)) <= {0, *predictor.model.labels.foreground_labels}
    probabilities = prediction.probabilities()
    expected = predictor.model.labels.convert_probabilities_to_segmentation(probabilities)
    assert (segmentation == expected).mean() > 0.999  # but for ties


def test_clicks_and_their_labels_matter(make_model):
    model = make_model()
    predictor = predictor_of(model.folder, max_windows=1)

    def logits(points, labels):
        return predictor.predict_case(image_of(model), Prompt(points, labels, "case_1")).logits.logits

    assert not torch.equal(logits([[9, 9, 9]], [1]), logits([[9, 9, 9]], [2]))
    assert not torch.equal(logits([[9, 9, 9]], [1]), logits([[9, 9, 9], [9, 9, 10]], [1, 0]))


def test_clicks_on_the_outer_faces_are_in_the_outermost_voxels(make_model):
    model = make_model()
    predictor = predictor_of(model.folder, max_windows=1)
    for corner in ([-0.5, -0.5, -0.5], [21.5, 17.5, 19.5], [-0.5, 17.5, 3]):  # x, y, z of 22 x 18 x 20 voxels of 1 mm
        prediction = predictor.predict_case(image_of(model), Prompt([corner], [1], "case_1"))
        assert prediction.outside == 0
        moved = Prompt([np.clip(corner, -0.499, [21.499, 17.499, 19.499])], [1], "case_1")
        same = predictor.predict_case(image_of(model), moved)
        assert torch.equal(prediction.logits.logits, same.logits.logits) or np.min(corner) < 0


def test_unlabelled_clicks_are_all_the_same(make_model):
    model = make_model(trainer_class=SAM3DAdapterTrainer, settings=UNLABELLED)
    predictor = predictor_of(model.folder)
    one, two = (predictor.predict_case(image_of(model), Prompt([[9, 9, 9]], [k], "case_1")) for k in (1, 2))
    assert torch.equal(one.logits.logits, two.logits.logits)
    with pytest.raises(SAM3DError, match="background click on .*foreground"):
        predictor.predict_case(image_of(model), CLICKS)


def test_folds_are_averaged_by_probability(make_model):
    model = make_model(folds=(0, 1))
    alone = [predictor_of(model.folder, fold, max_windows=1) for fold in (0, 1)]
    first, second = (p.predict_case(image_of(model), CLICKS).probabilities() for p in alone)
    both = predictor_of(model.folder, max_windows=1).predict_case(image_of(model), CLICKS).probabilities()
    assert not np.allclose(first, second)
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)


def test_mirroring_can_be_left_out(make_model):
    model = make_model()
    checkpoint = model.folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"inference_allowed_mirroring_axes": (0, 2)}, checkpoint)
    with_it, without = (
        predictor_of(model.folder, use_mirroring=use).predict_case(image_of(model), CLICKS) for use in (True, False)
    )
    torch.save(content | {"inference_allowed_mirroring_axes": None}, checkpoint)
    plain = predictor_of(model.folder).predict_case(image_of(model), CLICKS)
    assert torch.equal(without.logits.logits, plain.logits.logits)
    assert not torch.equal(with_it.logits.on_grid(), plain.logits.on_grid())


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "AIL"])
@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_orientation_of_the_file_does_not_matter(make_model, tmp_path, orientation, reader):
    model = make_model(reader=reader)
    predictor = predictor_of(model.folder)
    expected = predictor.predict_case(image_of(model), CLICKS)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(image_of(model)[0])), orientation)
    sitk.WriteImage(turned, str(tmp_path / "case_1_0000.nii.gz"))
    found = predictor.predict_case([tmp_path / "case_1_0000.nii.gz"], CLICKS)
    write = predictor.model.plans.image_reader_writer_class().write_seg
    maps = []
    for prediction, name in ((expected, "expected.nii.gz"), (found, "found.nii.gz")):
        write(prediction.segmentation(), str(tmp_path / name), prediction.case.properties)
        maps.append(sitk.ReadImage(str(tmp_path / name)))
    assert maps[1].GetSize() == turned.GetSize()
    np.testing.assert_allclose(maps[1].GetDirection(), turned.GetDirection(), atol=1e-6)
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(maps[1], "LPS"))
    assert back.any()
    assert (back == sitk.GetArrayFromImage(maps[0])).all()


def test_per_lesion(make_model):
    model = make_model()
    predictor = predictor_of(model.folder, max_windows=1)
    prompt = Prompt([[16, 14, 13], [4, 4, 5], [4, 14, 10]], [1, 2, 0], "case_1")
    prediction = predictor.predict_case(image_of(model), prompt, per_lesion=True)
    alone = [
        predictor.predict_case(image_of(model), Prompt(prompt.points[[i, 2]], prompt.labels[[i, 2]], "case_1"))
        for i in (0, 1)
    ]
    segmentation = prediction.segmentation()
    maps = [p.segmentation() for p in alone]
    assert not (maps[0] == maps[1]).all()
    assert ((segmentation > 0) == ((maps[0] > 0) | (maps[1] > 0))).mean() > 0.999
    instances = prediction.instances(segmentation)
    assert ((instances > 0) == (segmentation > 0)).all()
    odds = [(p.probabilities()[1:] / p.probabilities()[0]).max(0) for p in alone]
    whose = np.where(odds[1] > odds[0], 2, 1)
    assert (instances == np.where(segmentation > 0, whose, 0)).mean() > 0.999
    assert set(np.unique(instances)) == {0, 1, 2}
    with pytest.raises(SAM3DError, match="per_lesion"):
        alone[0].instances(segmentation)


def test_refinement(make_model):
    model = make_model()
    predictor = predictor_of(model.folder)
    previous = model.labels / "case_1.nii.gz"
    refined = predictor.predict_case(image_of(model), refine_from=previous)
    assert refined.prompt.image == "case_1"
    assert sorted(refined.prompt.labels) == [1, 2]
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(previous)))
    voxels = refined.case.geometry.to_file_index(refined.prompt.points).round().astype(int)
    assert (truth[tuple(voxels.T[::-1])] == refined.prompt.labels).all()
    clicks_alone = predictor.predict_case(image_of(model), refined.prompt)
    assert not torch.equal(refined.logits.on_grid(), clicks_alone.logits.on_grid())  # the mask matters, too
    assert refined.notes == []

    both = predictor.predict_case(image_of(model), CLICKS, refine_from=previous)
    assert len(both.prompt.points) == len(CLICKS.points) + len(refined.prompt.points)


def test_refinement_by_a_model_without_masks(make_model):
    model = make_model(trainer_class=SAM3DAdapterTrainer, settings=UNLABELLED)
    predictor = predictor_of(model.folder)
    refined = predictor.predict_case(image_of(model), refine_from=model.labels / "case_1.nii.gz")
    assert "no previous mask" in refined.notes[0]
    clicks_alone = predictor.predict_case(image_of(model), refined.prompt)
    assert torch.equal(refined.logits.logits, clicks_alone.logits.logits)


@pytest.mark.parametrize("per_lesion", [False, True])
@pytest.mark.parametrize("kind", ["nothing", "regions"])
def test_refinement_of_nothing_is_nothing(make_model, tmp_path, kind, per_lesion):
    model = make_model(kind)
    empty = sitk.ReadImage(str(model.labels / "case_1.nii.gz")) * 0
    sitk.WriteImage(empty, str(tmp_path / "case_1.nii.gz"))
    predictor = predictor_of(model.folder)
    prediction = predictor.predict_case(image_of(model), None, per_lesion, tmp_path / "case_1.nii.gz")
    assert prediction.segmentation().shape == prediction.case.shape
    assert not prediction.segmentation().any()
    assert (prediction.probabilities()[0] == (kind == "nothing")).all()
    assert "empty" in prediction.notes[0]
    if per_lesion:
        assert not prediction.instances(prediction.segmentation()).any()


@pytest.mark.parametrize(
    "points, labels, message",
    [
        ([], [], "no clicks on case_1.*nnUNetv2_predict"),
        ([[9, 9, 9]], [0], "All clicks on case_1 are on background"),
        ([[9, 9, 9]], [3], "case_1.* 3"),
        ([[9, 9, 90]], [1], "outside the image"),
        (None, None, "no prompt and no segmentation"),
    ],
)
def test_unusable_clicks(make_model, points, labels, message):
    model = make_model()
    prompt = None if points is None else Prompt(points, labels, "case_1")
    with pytest.raises(SAM3DError, match=message):
        predictor_of(model.folder).predict_case(image_of(model), prompt)


def test_click_on_the_empty_border(make_model, tmp_path):
    model = make_model()
    array = np.zeros((24, 24, 24), np.float32)
    array[6:, 2:20] = np.random.default_rng(0).normal(10, 1, (18, 18, 24))
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nii.gz"))
    predictor = predictor_of(model.folder)
    with pytest.raises(SAM3DError, match="empty border"):
        predictor.predict_case([tmp_path / "a.nii.gz"], Prompt([[9, 9, 2]], [1], "a"))
    found = predictor.predict_case([tmp_path / "a.nii.gz"], Prompt([[9, 9, 12]], [1], "a")).segmentation()
    assert found.shape == array.shape
    assert found.any() and not found[:6].any()
    predictor.keep_in_crop = True
    prompt = predictor.predict_case([tmp_path / "a.nii.gz"], Prompt([[9, 22, 2.2], [9.3, 9, 5.6]], [1, 1], "a")).prompt
    assert prompt.points == pytest.approx(np.array([[9, 19, 6], [9.3, 9, 5.6]]))  # (x, y, z)


def test_unusable_images(make_model, tmp_path):
    model = make_model()
    predictor = predictor_of(model.folder)
    (tmp_path / "a.nii.gz").write_text("nothing")
    with pytest.raises(SAM3DError, match="a.nii.gz"):
        predictor.predict_case([tmp_path / "a.nii.gz"], CLICKS)
    with pytest.raises(SAM3DError, match="1 channel.* 2 "):
        predictor.predict_case(image_of(model) * 2, CLICKS)


def test_no_model_or_device():
    with pytest.raises(SAM3DError, match="No model is loaded"):
        SAM3DPredictor().predict_case(["a.nii.gz"], CLICKS)
    if not torch.cuda.is_available():
        with pytest.raises(SAM3DError, match="cuda can't be used here; choose one of cpu"):
            SAM3DPredictor("cuda")
    with pytest.raises(SAM3DError, match="abacus can't be used here"):
        SAM3DPredictor("abacus")
