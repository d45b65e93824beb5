import errno
import json
import os
import shutil

import pytest
import SimpleITK as sitk
from helpers import read_array
from nnunetv2.ensembling.ensemble import merge_files

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.batch import plan_cases, predict_cases, predict_from_files
from sam3d_nnunet.prediction.cases import ClickSource, TypedClick
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.writer import CaseWriter
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

CASES = ["Fall_Müller_病例", "case_1", "case_2", "case_3", "case_4"]


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def predictor(model):
    predictor = SAM3DPredictor("cpu", "fp32")
    predictor.initialize_from_trained_model_folder(model.folder)
    return predictor


@pytest.fixture
def prompts(tmp_path):
    """A folder with two clicks on each case."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    for case in CASES:
        write_prompt(Prompt([[9, 9, 9], [6, 7, 8]], [1, 2], case), folder / f"{case}.json")
    return folder


def names(folder) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_folder(model, predictor, prompts, tmp_path):
    out = tmp_path / "deep" / "out"
    reports = predict_from_files(predictor, model.images, out, prompts)
    assert [report.name for report in reports] == CASES
    assert names(out) == {f"{c}{ending}" for c in CASES for ending in (".json", ".nii.gz")} | {
        "plans.json",
        "dataset.json",
    }
    for report in reports:
        image = model.images / f"{report.name}_0000.nii.gz"
        clicks = read_prompt(prompts / f"{report.name}.json")
        prediction = predictor.predict_case([image], clicks)
        segmentation = read_array(out / f"{report.name}.nii.gz")
        predictor.model.plans.image_reader_writer_class().write_seg(
            prediction.segmentation(), str(tmp_path / "alone.nii.gz"), prediction.case.properties
        )
        assert (segmentation == read_array(tmp_path / "alone.nii.gz")).all()
        assert report.error is None
        assert report.clicks == 2
        assert report.windows == len(prediction.logits.windows)
        assert report.volume_ml == pytest.approx((segmentation > 0).sum() / 1000)
        assert report.seconds > 0
        assert (read_prompt(out / f"{report.name}.json").points == clicks.points).all()
        assert str(report).startswith(f"{report.name}: 2 click(s), ")


def test_ensembling_takes_the_probabilities(model, predictor, prompts, tmp_path):
    predict_from_files(
        predictor, model.images / "case_1_0000.nii.gz", tmp_path / "out", prompts, save_probabilities=True
    )
    assert {"case_1.npz", "case_1.pkl"} <= names(tmp_path / "out")
    plans = predictor.model.plans
    merge_files(
        [str(tmp_path / "out" / "case_1.npz")] * 2,
        str(tmp_path / "merged"),
        ".nii.gz",
        plans.image_reader_writer_class(),
        plans.get_label_manager(json.loads((tmp_path / "out" / "dataset.json").read_text())),
    )
    merged, own = sitk.ReadImage(str(tmp_path / "merged.nii.gz")), read_array(tmp_path / "out" / "case_1.nii.gz")
    assert (sitk.GetArrayFromImage(merged) == own).mean() > 0.999
    assert own.any()


def test_instances_lie_apart(model, predictor, prompts, tmp_path):
    out = tmp_path / "out"
    image = model.images / "case_1_0000.nii.gz"
    predict_from_files(predictor, image, out, prompts, per_lesion=True, instances=True)
    assert names(out) == {"case_1.nii.gz", "case_1.json", "instances", "instances/case_1.nii.gz"} | {
        "plans.json",
        "dataset.json",
    }
    instances = read_array(out / "instances" / "case_1.nii.gz")
    assert ((instances > 0) == (read_array(out / "case_1.nii.gz") > 0)).all()
    with pytest.raises(SAM3DError, match="per_lesion"):
        predict_from_files(predictor, image, out, prompts, instances=True)


def test_bad_cases_do_not_cost_the_others(model, predictor, prompts, tmp_path, monkeypatch):
    images = tmp_path / "images"
    shutil.copytree(model.images, images)
    (images / "case_2_0000.nii.gz").write_text("nothing")
    write_prompt(Prompt([[9, 9, 90]], [1], "case_3"), prompts / "case_3.json")
    (prompts / "case_4.json").unlink()

    read_header = []
    monkeypatch.setattr(
        predictor, "predict_read", lambda *a: read_header.append(1) or SAM3DPredictor.predict_read(predictor, *a)
    )
    reports = {}
    for report in predict_from_files(predictor, images, tmp_path / "out", prompts):
        reports[report.name] = report.error
    assert set(reports) == set(CASES)
    assert reports["case_1"] is None and reports["Fall_Müller_病例"] is None
    assert "case_2_0000.nii.gz" in reports["case_2"]
    assert "outside the image" in reports["case_3"]
    assert "case_4" in reports["case_4"]
    assert len(read_header) == 2
    assert names(tmp_path / "out") >= {"case_1.nii.gz", "Fall_Müller_病例.nii.gz"}
    assert not {"case_2.nii.gz", "case_3.nii.gz", "case_4.nii.gz"} & names(tmp_path / "out")


def test_wrong_clicks_are_found_before_any_prediction(model, predictor, prompts, tmp_path):
    write_prompt(Prompt([[9, 9, 9]], [7], "case_4"), prompts / "case_4.json")
    write_prompt(Prompt([[9, 9, 9]], [0], "case_3"), prompts / "case_3.json")
    clicks, writer = ClickSource(predictor.model.class_names, prompts), CaseWriter(tmp_path / "out", predictor.model)
    cases = plan_cases(predictor, model.images, clicks, writer)
    errors = {case.name: case.error for case in cases if case.error}
    assert set(errors) == {"case_3", "case_4"}
    assert "label 7" in errors["case_4"] and "on background" in errors["case_3"]


def test_failed_writing_is_reported(model, predictor, prompts, tmp_path, monkeypatch, capsys):
    writing = CaseWriter.writing

    def fail(writer, name, prediction):
        if name == "case_2":
            raise OSError("no space left on device")
        return writing(writer, name, prediction)

    monkeypatch.setattr(CaseWriter, "writing", fail)
    reports = predict_from_files(predictor, model.images, tmp_path / "out", prompts)
    assert {report.name for report in reports if report.error} == {"case_2"}
    assert "no space left on device" in capsys.readouterr().err


def test_full_disk_is_a_sentence(model, predictor, prompts, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CaseWriter, "writing", fail)
    (report,) = predict_from_files(predictor, model.images / "case_1_0000.nii.gz", tmp_path / "out", prompts)
    assert "No space left on device. Make room" in report.error
    assert "Traceback" not in capsys.readouterr().err


def test_files_appear_complete_or_not_at_all(model, predictor, prompts, tmp_path, monkeypatch):
    out, seen, replace = tmp_path / "out", [], os.replace

    def watch(source, target):
        seen.append(str(target).removeprefix(f"{out}/"))
        if seen[-1] == "case_1.json":
            raise KeyboardInterrupt
        replace(source, target)

    clicks, writer = ClickSource(predictor.model.class_names, prompts), CaseWriter(out, predictor.model)
    cases = plan_cases(predictor, model.images / "case_1_0000.nii.gz", clicks, writer)
    monkeypatch.setattr("sam3d_nnunet.io.os.replace", watch)
    with pytest.raises(KeyboardInterrupt):
        list(predict_cases(predictor, cases, writer))
    assert names(out) == {"plans.json", "dataset.json"}
    monkeypatch.setattr("sam3d_nnunet.io.os.replace", replace)
    list(predict_cases(predictor, cases, writer))
    assert writer.is_finished("case_1")


def test_a_case_is_noted_before_its_files_get_their_names(model, predictor, prompts, tmp_path):
    out, noted = tmp_path / "out", []

    def note(report):
        assert not writer.is_finished(report.name)
        noted.append(report)
        if report.name == "case_2":
            raise OSError(errno.ENOSPC, "No space left on device", str(out / "notes"))

    clicks, writer = ClickSource(predictor.model.class_names, prompts), CaseWriter(out, predictor.model)
    cases = [case for case in plan_cases(predictor, model.images, clicks, writer) if case.name in ("case_1", "case_2")]
    reports = list(predict_cases(predictor, cases, writer, note=note))
    assert [report.name for report in noted] == ["case_1", "case_2"] and noted[0] == reports[0]
    assert "notes: No space left" in reports[1].error
    assert writer.is_finished("case_1") and not writer.is_finished("case_2")


def test_finished_cases_are_skipped(model, predictor, prompts, tmp_path):
    out = tmp_path / "out"
    predict_from_files(predictor, model.images, out, prompts)
    before = (out / "case_1.nii.gz").stat().st_mtime_ns
    (out / "case_2.nii.gz").unlink()
    reports = predict_from_files(predictor, model.images, out, prompts, overwrite=False)
    assert [report.name for report in reports] == ["case_2"]
    assert (out / "case_1.nii.gz").stat().st_mtime_ns == before
    more = predict_from_files(predictor, model.images, out, prompts, save_probabilities=True, overwrite=False)
    assert len(more) == 5
    assert predict_from_files(predictor, model.images, out, prompts, overwrite=False) == []


def test_refinement_needs_no_clicks(model, predictor, tmp_path):
    coarse = tmp_path / "coarse"
    shutil.copytree(model.labels, coarse)
    (coarse / "case_2.nii.gz").unlink()
    reports = predict_from_files(predictor, model.images, tmp_path / "out", refine_from=coarse)
    errors = {report.name: report.error for report in reports if report.error}
    assert set(errors) == {"case_2"} and "no file" in errors["case_2"]
    assert all(report.clicks == 2 for report in reports if not report.error)
    assert len(read_prompt(tmp_path / "out" / "case_1.json").points) == 2


def contents(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder) - {"plans.json", "dataset.json"}}


@pytest.mark.parametrize("out", ["", "linked"])
def test_images_are_not_overwritten(model, predictor, prompts, tmp_path, out):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "linked").symlink_to(folder)
    shutil.copy(model.images / "case_1_0000.nii.gz", folder / "case_1.nii.gz")
    before = contents(folder)
    (report,) = predict_from_files(predictor, folder / "case_1.nii.gz", tmp_path / (out or "images"), prompts)
    assert f"would overwrite {folder / 'case_1.nii.gz'}" in report.error
    assert contents(folder) == before
    (report,) = predict_from_files(predictor, folder / "case_1.nii.gz", tmp_path / "out", prompts)
    assert report.error is None


def test_segmentations_to_refine_are_not_overwritten(model, predictor, tmp_path):
    coarse = tmp_path / "coarse"
    shutil.copytree(model.labels, coarse)
    before = contents(coarse)
    reports = predict_from_files(predictor, model.images, coarse, refine_from=coarse)
    assert all(f"would overwrite {coarse / report.name}.nii.gz" in report.error for report in reports)
    assert contents(coarse) == before


def test_clicks_are_overwritten_by_themselves_alone(model, predictor, prompts, tmp_path):
    """Clicks beside a prediction may be used again, but not exchanged for others, nor lose what a user noted there."""
    image = model.images / "case_1_0000.nii.gz"
    before = contents(prompts)
    (report,) = predict_from_files(predictor, image, prompts, prompts, refine_from=model.labels)
    assert f"would overwrite {prompts / 'case_1.json'}" in report.error
    typed = [TypedClick((3, 4, 5), 0, False)]
    clicks, writer = ClickSource(predictor.model.class_names, prompts, typed), CaseWriter(prompts, predictor.model)
    assert "would overwrite" in plan_cases(predictor, image, clicks, writer)[0].error
    assert contents(prompts) == before

    (report,) = predict_from_files(predictor, image, prompts, prompts)
    assert report.error is None
    assert contents(prompts).items() > before.items()
    noted = json.loads(before["case_1.json"]) | {"comment": "ask Anna"}
    (prompts / "case_1.json").write_text(json.dumps(noted))
    (report,) = predict_from_files(predictor, image, prompts, prompts)
    assert "would overwrite" in report.error
    assert json.loads((prompts / "case_1.json").read_text()) == noted


def test_nothing_that_prompts(model, predictor, tmp_path):
    with pytest.raises(SAM3DError, match="no clicks.*nnUNetv2_predict"):
        predict_from_files(predictor, model.images, tmp_path / "out")
    with pytest.raises(SAM3DError, match="nowhere"):
        predict_from_files(predictor, model.images, tmp_path / "out", refine_from=tmp_path / "nowhere")


def test_tiff(make_model, tmp_path):
    """Its writer has a CASE.json of its own, and its images have no place in the world."""
    import tifffile

    model = make_model(reader="Tiff3DIO")
    dataset = json.loads((model.folder / "dataset.json").read_text()) | {"file_ending": ".tif"}
    (model.folder / "dataset.json").write_text(json.dumps(dataset))
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a_0000.tif", read_array(model.images / "case_1_0000.nii.gz"))
    (tmp_path / "images" / "a.json").write_text('{"spacing": [1, 1, 2]}')
    (tmp_path / "clicks.csv").write_text("i,j,k,label,image\n9,9,9,core,a\n")
    predictor = SAM3DPredictor("cpu")
    predictor.initialize_from_trained_model_folder(model.folder)
    (report,) = predict_from_files(predictor, tmp_path / "images", tmp_path / "out", tmp_path / "clicks.csv")
    assert report.error is None
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == {"spacing": [1, 1, 2]}
    assert read_prompt(tmp_path / "out" / "a.csv").points.tolist() == [[18, 9, 9]]
    assert tifffile.imread(tmp_path / "out" / "a.tif").shape == (20, 18, 22)
