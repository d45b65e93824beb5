"""`sam3d evaluate --server`, with a stub that packs arrays by the client's own functions."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cc3d
import httpx
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from stub_server import Lease, StubServer, running
from typer.testing import CliRunner, Result

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation import cvpr25
from sam3d_nnunet.evaluation.answers import ClassBoxes
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.evaluation.server import evaluate_server
from sam3d_nnunet.evaluation.server_answers import ServerModel
from sam3d_nnunet.evaluation.server_objects import ObjectPrompt, Objects
from sam3d_nnunet.evaluation.server_session import Server
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.prompts.prompt import Prompt

CASES = ["case_1", "case_2"]
SPACING = (2.0, 1.0, 0.5)
SHAPE = (10, 14, 18)
INTENSITY = 100  # of class 1; class 2 is twice as bright


@pytest.fixture
def stub(monkeypatch) -> Iterator[StubServer]:
    monkeypatch.delenv("NN_INTERACTIVE_API_KEY", raising=False)
    with running(StubServer()) as server:
        yield server


@pytest.fixture
def labels(nnunet_folders, write_dataset, monkeypatch) -> Path:
    """Folder of the label maps of a data set of two classes, whose intensities tell them; all cases are in fold 0."""
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    cases = {}
    for number, name in enumerate(CASES):
        truth = np.zeros(SHAPE, np.uint8)
        truth[2:5, 3 : 6 + number, 2:9] = 1
        truth[5:9, 8:12, 9:15] = 2
        truth[2, 12, 16] = 1
        cases[name] = (truth * INTENSITY, truth)
    meaning = {"background": 0, "organ": 1, "tumour": 2}
    folder = write_dataset(nnunet_folders.raw, "Dataset721_Two", cases, meaning, SPACING)
    splits = nnunet_folders.preprocessed / folder.name / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text(json.dumps([{"train": [], "val": CASES}]))
    return folder / "labelsTr"


@pytest.fixture
def evaluate(stub, labels, tmp_path) -> Callable[..., Result]:
    """The command on the stub; results go to `evaluated`."""

    def run(*arguments: object, url: str | None = None) -> Result:
        asked = ["-d", 721, "--name", "rival", "-o", tmp_path / "evaluated", "--server", url or stub.url, *arguments]
        return CliRunner().invoke(cli.app, ["evaluate", *map(str, asked)])

    return run


def points_of(stub: StubServer) -> list[tuple[list[int], bool, bool]]:
    """Voxel, whether it is on the object, and whether a prediction follows, of all clicks."""
    clicks = [meta for path, meta in stub.requests if path == "/add_point_interaction"]
    return [(click["coordinates"], click["include_interaction"], click["run_prediction"]) for click in clicks]


def test_drawn_clicks(evaluate, stub, labels, read, tmp_path):
    done = evaluate("-f", 0, "--protocol", "volume_2", "--trials", 2, "--tolerance", 1)
    assert done.exit_code == 0, done.output
    results = Results(tmp_path / "evaluated")
    assert [(f.method, f.protocol, f.fold, f.trial) for f in results.folders] == [
        ("rival", "volume_2", "0", 0),
        ("rival", "volume_2", "0", 1),
    ]
    assert not stub.leases and sum(path == "/claim" for path, _ in stub.requests) == 5  # one to ask, one for each case
    clicks = iter(points_of(stub))
    for trial in (0, 1):
        for case in CASES:
            prompt = read_prompt(results.prompt_file("volume_2", trial, case))
            beside = read_prompt(tmp_path / f"evaluated/rival/volume_2/fold_0/trial_{trial}/{case}.json")
            assert (beside.points == prompt.points).all() and beside.labels.tolist() == [1, 1, 2, 2]
            expected = np.zeros(SHAPE, int)
            for label in (1, 2):
                alone = lease_of(read(labels / f"{case}.nii.gz"))
                for point in prompt.points[prompt.labels == label]:
                    voxel = (point[::-1] / SPACING).astype(int).tolist()
                    assert next(clicks) == (voxel, True, True)
                    alone.prompts.append((voxel, True))
                    alone.predict()
                expected[alone.buffer > 0] = label
            predicted = read(tmp_path / f"evaluated/rival/volume_2/fold_0/trial_{trial}/{case}.nii.gz")
            assert (predicted == expected).all() and set(np.unique(predicted)) == {0, 1, 2}
    assert next(clicks, None) is None
    assert results.costs["clicks_given"].tolist() == [4] * 4 and (results.costs["seconds"] > 0).all()
    assert len(results.metrics) == 8 and "nsd_1mm" in results.metrics
    for image, properties in stub.images:
        assert image.shape == (1, *SHAPE) and image.dtype == np.float32 and image.max() == 2 * INTENSITY
        assert properties == {"spacing": list(SPACING)}


def lease_of(truth: np.ndarray) -> Lease:
    """One object in a session of its own."""
    lease = Lease(truth[None].astype(np.float32) * INTENSITY, buffer=np.zeros(truth.shape, np.uint8))
    lease.reset()
    return lease


def test_each_lesion_is_an_object_of_its_own(evaluate, labels, read, tmp_path):
    """As in a session of its own; the scores are those of these masks, and all are written together."""
    assert evaluate("-f", 0, "--protocol", "each_1").exit_code == 0
    folder = tmp_path / "evaluated/rival/each_1/fold_0/trial_0"
    scores = pd.read_csv(folder / "scores.csv").set_index("case")
    for case in CASES:
        truth, drawn = read(labels / f"{case}.nii.gz"), read_prompt(folder / f"{case}.json")
        lesions = cc3d.connected_components(truth, connectivity=26)
        union, dice = np.zeros(SHAPE, int), []
        for point, label in zip(drawn.points, drawn.labels.tolist()):
            voxel = tuple((point[::-1] / SPACING).astype(int).tolist())
            alone = lease_of(truth)
            alone.prompts.append((list(voxel), True))
            alone.predict()
            found, wanted = alone.buffer > 0, lesions == lesions[voxel]
            dice.append(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))
            union[found] = label
        assert len(dice) == scores.loc[case, "objects"] == 3
        assert scores.loc[case, "object_dice"] == pytest.approx(np.mean(dice))
        assert (read(folder / f"{case}.nii.gz") == union).all() and set(np.unique(union)) == {0, 1, 2}


def test_facts_of_the_method(evaluate, tmp_path):
    assert evaluate("-f", 0, "--protocol", "volume_1", "--time-limit", 50).exit_code == 0
    facts = json.loads((tmp_path / "evaluated/rival/method.json").read_text())
    assert facts["kind"] == "prompted" and facts["trainer"] is None and facts["training_hours"] is None
    assert facts["client"] == "nninteractive-client 2.6.0" and facts["server"].startswith("http://127.0.0.1")
    assert facts["licence"] == "CC BY-NC-SA 4.0" and facts["time_limit"] == 50
    settings = json.loads((tmp_path / "evaluated/rival/volume_1/fold_0/trial_0/settings.json").read_text())
    assert settings["server_version"] == "2.6.0" and "bbox2d" in settings["interactions"]
    assert not (tmp_path / "evaluated/rival/splits_final.json").exists()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_clicks_lie_where_the_class_is_whatever_the_reader(evaluate, stub, labels, read, tmp_path, reader):
    description = labels.parent / "dataset.json"
    content = json.loads(description.read_text()) | {"overwrite_image_reader_writer": reader}
    description.write_text(json.dumps(content))
    for file in (*labels.iterdir(), *(labels.parent / "imagesTr").iterdir()):
        image = sitk.ReadImage(str(file))
        image.SetDirection((0, 0, 1, -1, 0, 0, 0, 1, 0))
        image.SetOrigin((5, -7, 11))
        sitk.WriteImage(image, str(file))
    done = evaluate("-f", 0, "--protocol", "volume_2", "--protocol", "cvpr25")
    assert done.exit_code == 0, done.output
    drawn, seen = [], []
    for path, meta in stub.requests:
        if path == "/set_image":
            image = stub.images[len(seen)][0][0]
            seen.append(image)
        elif path == "/add_point_interaction" and len(seen) <= len(CASES):
            drawn.append(image[tuple(meta["coordinates"])] / INTENSITY)
        elif path == "/add_bbox_interaction":
            box = Box.from_lists(meta["bbox_coords"])
            assert sorted(box.shape)[0] == 1 and image[box.slices].any()
    assert drawn == [1, 1, 2, 2] * 2
    assert set(image.shape for image in seen) != {SHAPE} or "Reorient" not in reader
    for case in CASES:
        predicted = read(tmp_path / f"evaluated/rival/volume_2/fold_0/trial_0/{case}.nii.gz")
        truth = read(labels / f"{case}.nii.gz")
        assert predicted.shape == truth.shape and (predicted[predicted > 0] == truth[predicted > 0]).mean() > 0.9


def test_iterated_clicks(evaluate, stub, labels, read, tmp_path):
    assert evaluate("-f", 0, "--protocol", "iterated_3").exit_code == 0
    folder = tmp_path / "evaluated/rival/iterated_3/fold_0/trial_0"
    for case in CASES:
        truth = read(labels / f"{case}.nii.gz")
        prompts = [read_prompt(folder / f"after_{step}/{case}.json") for step in (1, 2, 3)]
        assert prompts[0].labels.tolist() == [1, 2]
        for step, (earlier, later) in enumerate(zip(prompts, prompts[1:]), 1):
            assert (later.points[:-1] == earlier.points).all()
            voxel = tuple((later.points[-1][::-1] / SPACING).astype(int))
            before, after = (read(folder / f"after_{k}/{case}.nii.gz") for k in (step, step + 1))
            assert truth[voxel] == later.labels[-1] == after[voxel] != before[voxel]
    assert Results(tmp_path / "evaluated").costs.groupby("clicks")["clicks_given"].max().tolist() == [2, 3, 4]


@pytest.mark.parametrize("initial_label", [True, False])
def test_objects_side_by_side_are_as_in_sessions_of_their_own(stub, initial_label):
    stub.initial_label = initial_label
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2, (1, *SHAPE)).astype(np.float32) * 50
    server, turns = Server(stub.url), [1, 2, 1, 3, 2, 2, 1, 3, 1]
    alone = {label: Lease(image, buffer=np.zeros(SHAPE, np.uint8)) for label in (1, 2, 3)}
    for lease in alone.values():
        lease.reset()
    with server.session() as session:
        objects = Objects(server, session, image, SPACING)
        for number, label in enumerate(turns):
            place = Box((3, 2, 2), (4, 9, 9)) if number == 1 else tuple(rng.integers(0, SHAPE).tolist())
            include = bool(number % 3 != 2)
            objects.add(label, ObjectPrompt(place, include))
            alone[label].prompts.append((place.as_lists() if number == 1 else list(place), include))
            alone[label].predict()
            expected = np.zeros(SHAPE, int)
            last = {
                k: max(n for n, other in enumerate(turns[: number + 1]) if other == k and n % 3 != 2)
                for k in objects.labels
            }
            for k in sorted(last, key=last.get):
                expected[alone[k].buffer > 0] = k
            assert (objects.segmentation() == expected).all() and expected.any()
    kinds = [path for path, _ in stub.interactions]
    assert ("/add_initial_seg_interaction" in kinds) == initial_label


def replayed(predictions: list[np.ndarray]) -> cvpr25.Model:
    later = iter(predictions)
    return lambda *_: next(later)


@pytest.mark.parametrize("box3d", [False, True])
def test_challenge(evaluate, stub, labels, read, tmp_path, box3d):
    stub.box3d = box3d
    done = evaluate("-f", 0, "--protocol", "cvpr25")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "evaluated/rival/cvpr25/fold_0/trial_0"
    scores = pd.read_csv(folder / "after_5/scores.csv").set_index("case")
    boxes = iter(
        meta["bbox_coords"]
        for path, meta in stub.requests
        if path == "/add_bbox_interaction" and meta["run_prediction"]
    )
    clicks = iter((voxel, include) for voxel, include, predicted in points_of(stub) if predicted)
    for case in CASES:
        truth = read(labels / f"{case}.nii.gz")
        predictions = [read(folder / f"after_{k}/{case}.nii.gz") for k in range(6)]
        expected = cvpr25.run(truth, predictions[0], replayed(predictions[1:]), SPACING)
        assert scores.loc[case, "dsc_auc"] == pytest.approx(expected["dsc_auc"])
        assert scores.loc[case, "nsd_final"] == pytest.approx(expected["nsd_final"])
        assert expected["dsc"][5] > expected["dsc"][0] > 0.3
        for label in (1, 2):
            box = Box.from_lists(next(boxes))
            if box3d:
                assert box == Box.from_mask(truth == label)
            else:
                areas = (truth == label).sum(axis=(1, 2))
                assert box.shape[0] == 1 and areas[box.start[0]] == areas.max()
                assert box == Box.from_mask((truth == label) & (np.indices(SHAPE)[0] == box.start[0]))
        given = [(voxel, kind == "fg") for new in expected["clicks"] for _, kind, voxel in new]
        assert given and [next(clicks) for _ in given] == given
    assert next(clicks, None) is None and next(boxes, None) is None


def test_autopet(evaluate, stub, labels, read, tmp_path):
    """Without clicks there is no prediction; then each round has a click on a lesion and one beside it."""
    for file in labels.iterdir():
        label_map = sitk.ReadImage(str(file))
        sitk.WriteImage(sitk.Cast(label_map == 1, sitk.sitkUInt8), str(file))
    for file in (labels.parent / "imagesTr").iterdir():
        image = sitk.ReadImage(str(file))
        image[10, 9:11, 6:8] = 3 * INTENSITY  # looks like a lesion
        sitk.WriteImage(image, str(file))
    description = labels.parent / "dataset.json"
    content = json.loads(description.read_text()) | {"labels": {"background": 0, "lesion": 1}}
    description.write_text(json.dumps(content))
    done = evaluate("-f", 0, "--protocol", "autopet_2")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "evaluated/rival/autopet_2/fold_0/trial_0"
    for case in CASES:
        found = [read(folder / f"after_{k}/{case}.nii.gz") for k in range(3)]
        assert not found[0].any() and found[1].any() and (found[1] != found[2]).any()
        assert read_prompt(folder / f"after_2/{case}.json").labels.tolist() == [1, 0, 1, 0]
    assert [include for _, include, _ in points_of(stub)] == [True, False] * 4
    assert set(pd.read_csv(folder / "after_2/scores.csv")["case"]) == set(CASES)


def test_boxes_of_a_class_in_slices_of_any_axis():
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3, 2:4, 1] = mask[0, 4, 5] = mask[1, 1:5, 3] = True
    assert ClassBoxes.of(mask, 0) == ClassBoxes(Box((0, 1, 1), (3, 5, 6)), Box((1, 1, 1), (2, 5, 4)))
    assert ClassBoxes.of(mask, 2).slice == Box((1, 2, 1), (3, 4, 2))


@pytest.fixture
def answers(stub, labels) -> Iterator[Callable]:
    """The first case on the stub: label map after clicks at voxels, with labels."""
    data, server = EvaluationData.from_nnunet("721"), Server(stub.url)
    model, clicks = ServerModel(server, server.capabilities(), data), []
    with model.open(data.image_files("case_1"), "case_1") as case:

        def after(voxel: tuple[int, int, int], label: int) -> np.ndarray:
            clicks.append((voxel, label))
            points = np.array([place for place, _ in clicks]) * SPACING
            return case.from_clicks(Prompt(points[:, ::-1], [label for _, label in clicks], "case_1"))

        yield after


def test_background_is_clicked_on_the_objects_that_cover_it(answers, stub):
    def told() -> list[tuple[bool, bool]]:
        count = len(stub.requests)
        yield
        yield [
            (meta["include_interaction"], meta["run_prediction"])
            for path, meta in stub.requests[count:]
            if path == "/add_point_interaction" and meta["run_prediction"]
        ]

    answers((3, 4, 4), 1)
    answers((6, 10, 11), 2)
    requests = told()
    next(requests)
    assert answers((6, 10, 12), 0)[6, 10, 12] == 0  # class 2 alone covers it
    assert next(requests) == [(False, True)] and answers((6, 10, 11), 2)[6, 10, 11] == 2
    requests = told()
    next(requests)
    answers((0, 0, 17), 0)  # nobody covers it
    assert next(requests) == [(False, True)] * 2


def test_the_class_that_was_clicked_last_lies_on_top(answers):
    first = answers((6, 10, 11), 1)
    assert first[6, 10, 11] == 1
    assert answers((6, 10, 12), 2)[6, 10, 11] == 2
    assert answers((6, 10, 11), 1)[6, 10, 12] == 1
    assert answers((9, 0, 0), 0)[6, 10, 12] == 1  # background moves no class


def test_a_case_without_clicks_asks_no_server(stub, labels, read, tmp_path):
    file = labels / "case_1.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(file)) * 0, str(file))
    root = tmp_path / "evaluated"
    assert evaluate_server(stub.url, root, "721", "rival", ["volume_1", "cvpr25"], ["0"]) == []
    assert len(stub.images) == 2
    assert not read(root / "rival/volume_1/fold_0/trial_0/case_1.nii.gz").any()
    assert pd.read_csv(root / "rival/cvpr25/fold_0/trial_0/after_5/scores.csv")["case"].tolist() == ["case_2"]


POINT = "/add_point_interaction"
FAULTS = [
    (POINT, "500", "failed with HTTP status 500 when asked for a prediction (made up for 500)"),
    (POINT, "400", "refused when asked for a prediction: made up for 400"),
    (POINT, "404", "does not know what it was asked"),
    (POINT, "410", "ended the session"),
    (POINT, "close", "broke when asked for a prediction"),
    (POINT, 1.0, "did not answer within 0.3 s when asked for a prediction. Give it more time with --time-limit"),
    ("/set_image", "nonsense", "gave an answer that nninteractive-client 2.6.0 does not understand"),
    ("/set_image", 1.0, "did not answer within 0.3 s when given the image"),
    ("/claim", "503", "no free session"),
]


@pytest.mark.parametrize("path, fault, sentence", FAULTS)
def test_a_fault_costs_one_case_and_the_next_run_goes_on(evaluate, stub, tmp_path, path, fault, sentence):
    """The second case fails."""
    stub.faults[path], stub.after[path] = fault, {POINT: 2, "/set_image": 1, "/claim": 2}[path]
    asked = ("-f", 0, "--protocol", "volume_1", "--time-limit", 0.3)
    done = evaluate(*asked)
    assert done.exit_code == 1 and "case_2 failed. The" in done.output and stub.url in done.output
    assert sentence in done.output and "Traceback" not in done.output
    folder = tmp_path / "evaluated/rival/volume_1/fold_0/trial_0"
    assert (folder / "case_1.nii.gz").is_file() and not (folder / "case_2.nii.gz").exists()
    assert Results(tmp_path / "evaluated").metrics["case"].unique().tolist() == ["case_1"]
    stub.faults.clear()
    images = len(stub.images)
    assert evaluate(*asked[:-2]).exit_code == 0
    assert len(stub.images) == images + 1 and len(Results(tmp_path / "evaluated").metrics) == 4


def test_a_server_that_dies(evaluate, stub, tmp_path):
    """In the middle of a protocol of several steps. All cases that are left fail at once."""
    stub.faults |= {path: "close" for path in ("/claim", "/release", POINT)}
    stub.after |= {"/claim": 3, "/release": 2, POINT: 9}
    done = evaluate("-f", 0, "--protocol", "iterated_3", "--protocol", "volume_1")
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert "broke when asked for a session" in done.output and "finished cases are kept" in done.output
    stub.faults.clear()
    assert evaluate("-f", 0, "--protocol", "iterated_3", "--protocol", "volume_1").exit_code == 0


def test_servers_that_cannot_be_used(stub, labels, tmp_path, monkeypatch):
    def refused(url: str = stub.url, protocols: tuple[str, ...] = ("volume_1",)) -> str:
        with pytest.raises(SAM3DError) as error:
            evaluate_server(url, tmp_path / "evaluated", "721", "rival", protocols, ["0"])
        return str(error.value)

    assert "Leave the protocol automatic out" in refused(protocols=("automatic", "volume_1"))
    assert "can't be reached" in refused("http://127.0.0.1:1")
    for url in ("localhost:1527", "ftp://localhost", "http://", "http://localhost:x"):
        assert f"{url} is not the address" in refused(url)
    assert "secret" not in refused("http://me:secret@127.0.0.1:1")
    stub.faults["/capabilities"] = "nonsense"
    assert "does not understand" in refused()
    stub.faults.clear()
    stub.key = "right"
    assert "Set NN_INTERACTIVE_API_KEY" in refused()
    monkeypatch.setenv("NN_INTERACTIVE_API_KEY", "right")
    assert evaluate_server(stub.url, tmp_path / "evaluated", "721", "rival", ["volume_1"], ["0"]) == []
    stub.box3d = True
    assert "holds predictions with interactions" in refused()  # of another model
    monkeypatch.setitem(sys.modules, "nnInteractive.inference.remote", None)
    assert 'pip install "sam3d_nnunet[rivals]"' in refused()


def test_what_the_model_must_take(stub, labels, tmp_path, monkeypatch):
    usual = stub.capabilities()

    def refused(protocol: str, **interactions: bool) -> str:
        answer = usual | {"supported_interactions": interactions}
        monkeypatch.setattr(StubServer, "capabilities", lambda _: answer)
        with pytest.raises(SAM3DError) as error:
            evaluate_server(stub.url, tmp_path / "evaluated", "721", "rival", [protocol], ["0"])
        return str(error.value)

    assert "takes no clicks" in refused("volume_1", scribble=True, points=False)
    assert "takes no boxes. Leave cvpr25 out" in refused("cvpr25", points=True, bbox2d=False)


def test_several_channels_are_one_hint(stub):
    server = Server(stub.url)
    response = httpx.Response(500, json={"detail": "x"}, request=httpx.Request("POST", stub.url))
    for channels in (1, 2):
        with pytest.raises(SAM3DError) as error, server.answering("asked", channels):
            response.raise_for_status()
        assert ("has 2 channels" in str(error.value)) == (channels == 2)


@pytest.mark.parametrize(
    "more, sentence",
    [
        (("-f", 0), "--server needs"),
        (("--protocol", "volume_1"), "--server needs"),
        (("-f", 0, "--protocol", "volume_1", "--test", ".", "."), "--server needs"),
        (("-f", 0, "--protocol", "volume_1", "-c", "3d_fullres", "--device", "cpu"), "leave out -c, --device"),
        (("-f", 0, "--paper"), "leave out --paper"),
    ],
)
def test_options(evaluate, stub, more, sentence):
    done = evaluate(*more)
    assert done.exit_code == 2 and sentence in " ".join(done.output.split())
    assert not stub.requests
