import components
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import write_json
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.draw import Components

CLICKS = np.array([[2, 2, 2], [2, 2, 8], [2, 2, 14]])


def body(*places: int) -> np.ndarray:
    """A label map with bodies of 3 x 3 x 4 voxels, which start at these columns."""
    labels = np.zeros((6, 6, 24), np.uint8)
    for place in places:
        labels[1:4, 1:4, place : place + 4] = 1
    return labels


TRUTH = body(1, 7, 13)


def assigned(found: np.ndarray) -> dict[str, float]:
    return components.assigned(Components(TRUTH, [1]), Components(found, [1]))


def at_clicks(found: np.ndarray, spacing=(1.0, 1.0, 1.0), truth=TRUTH, clicks=CLICKS) -> dict[str, float]:
    objects, marked = Components(truth, [1, 2]), Components(found, [1, 2])
    return components.at_clicks(objects, marked, clicks, truth[tuple(clicks.T)], spacing)


def test_the_truth_itself():
    assert assigned(TRUTH) == {"instance_dice": 1, "merged": 0, "spare": 0, "large": 0}
    assert at_clicks(TRUTH) == {"object_dice": 1, "others_marked": 0, "instance_dice": 1}


def test_nothing_found():
    assert assigned(body()) == {"instance_dice": 0, "merged": 0, "spare": 0, "large": 0}
    assert at_clicks(body()) == {"object_dice": 0, "others_marked": 0, "instance_dice": 0}


def test_a_bridge_merges_two_bodies():
    found = body(1, 7, 13)
    found[2, 2, 5:7] = 1  # two voxels join the first two
    # one of both gets 36 of 74 voxels, the other nothing
    assert assigned(found) == pytest.approx(
        {"instance_dice": (2 * 36 / (36 + 74) + 0 + 1) / 3, "merged": 2 / 3, "spare": 0, "large": 0}
    )
    scores = at_clicks(found)
    assert scores["object_dice"] == pytest.approx((2 * 2 * 36 / (36 + 74) + 1) / 3)
    assert scores["others_marked"] == pytest.approx(2 / 6)  # two of six pairs
    # the voxel at column 5 is nearer to the first click, the other one to the second
    assert scores["instance_dice"] == pytest.approx((2 * 2 * 36 / (36 + 37) + 1) / 3)


def test_components_that_no_object_gets():
    found = body(1, 7, 13, 19)
    found[5, 5, 0] = 1
    assert assigned(found) == {"instance_dice": 1, "merged": 0, "spare": 2, "large": 1}
    assert at_clicks(found)["object_dice"] == 1


def test_a_click_beside_all_components_takes_the_nearest_in_millimetres():
    found = np.zeros_like(TRUTH)
    found[2, 2, 6] = found[5, 2, 2] = 1  # four columns beside the first click, and three slices above it
    assert at_clicks(found, (1, 1, 1))["others_marked"] == 0
    found[2, 2, 7] = 1  # the first now marks a voxel of the second body if columns are near
    assert at_clicks(found, (4, 1, 0.5))["others_marked"] > at_clicks(found, (1, 1, 4))["others_marked"]


def test_components_of_another_class_do_not_count():
    truth = TRUTH.copy()
    truth[..., 7:11] *= 2
    assert at_clicks(truth, truth=truth)["object_dice"] == 1
    swapped = np.where(truth > 0, 3 - truth, 0)
    swapped[..., 12:] = 0  # the only object of class 1 is the middle one now
    # the first click takes the middle one; the last one is farther from it, and the click of class 2 takes the first
    assert at_clicks(swapped, truth=truth)["object_dice"] == 0


def test_clicks_that_are_not_on_their_objects_are_refused():
    for wrong in (CLICKS[:2], CLICKS[[1, 0, 2]], CLICKS + [0, 3, 0]):
        with pytest.raises(SAM3DError, match="not one click on each object"):
            at_clicks(TRUTH, clicks=wrong)


@pytest.fixture
def results(tmp_path):
    """Two methods: masks without clicks whose first two bodies are merged, and scores with clicks; six cases."""
    truth, spacing = tmp_path / "truth", (0.5, 1.0, 2.0)  # x, y, z

    def write(array: np.ndarray, file) -> sitk.Image:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        image.SetOrigin((10, -20, 30))
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(file))
        return image

    root, cases = tmp_path / "results", [f"case_{n}" for n in range(6)]
    found = TRUTH.copy()
    found[2, 2, 5:7] = 1
    for fold, part in enumerate((cases[:3], cases[3:])):
        masks = root / f"U-Net/automatic/fold_{fold}/trial_0"
        clicked = root / f"ours/each_1/fold_{fold}/trial_0"
        for case in part:
            image = write(TRUTH, truth / f"{case}.nii.gz")
            write(TRUTH, tmp_path / f"images/{case}_0000.nii.gz")
            write(found, masks / f"{case}.nii.gz")
            points = [image.TransformIndexToPhysicalPoint(click[::-1].tolist()) for click in CLICKS]
            file = root / f"prompts/each_1/trial_0/{case}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_prompt(Prompt(np.array(points), np.ones(3, int), case), file)
        clicked.mkdir(parents=True)
        empty = pd.DataFrame({"case": part, "target": "body", "truth_voxels": 108, "dice": 0.9})
        for folder in (masks, clicked):
            empty.to_csv(folder / "metrics.csv", index=False)
        scores = {"object_dice": 0.9, "lowest_object_dice": 0.8, "others_marked": 0.01, "instance_dice": 0.95}
        table = pd.DataFrame({"case": part, "target": "all classes", "truth_voxels": 108, "objects": 3, **scores})
        table.to_csv(clicked / "scores.csv", index=False)
    for method in ("U-Net", "ours"):
        write_json(root / method / "method.json", {"name": method})
    dataset = {"labels": {"background": 0, "body": 1}, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    places = {"images": str(tmp_path / "images"), "truth": str(truth)}
    write_json(root / "data.json", {"dataset": "bodies", **places, "dataset_json": dataset})
    return root


def run(results, capsys, baseline: str) -> dict[str, list[str]]:
    """The cells of each row."""
    components.main([str(results), "--baseline", baseline])
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_the_table(results, capsys):
    rows = run(results, capsys, "U-Net, components at clicks")
    assert list(rows) == ["U-Net, components", "U-Net, components at clicks", "ours, each_1"]
    assert rows["U-Net, components"][:6] == ["6", "–", "–", "0.552 [0.552, 0.552]", "66.7 %", "0.0"]
    assert rows["U-Net, components at clicks"][2:4] == ["33.33 %", "0.991 [0.991, 0.991]"]
    assert rows["ours, each_1"][:4] == ["6", "0.900", "1.00 %", "0.950 [0.950, 0.950]"]
    # 2 ** (1 - 6) for six of six pairs, twice by Holm
    assert rows["ours, each_1"][-3:] == ["-0.041", "0 of 6", "0.062"]
    assert rows["U-Net, components"][-2:] == ["0 of 6", "0.062"]


def test_what_is_not_there(results, capsys):
    with pytest.raises(SystemExit, match="no row 'mine', but: U-Net, components; U-Net, components at clicks; ours"):
        run(results, capsys, "mine")
    (results / "prompts/each_1/trial_0/case_3.json").unlink()
    with pytest.raises(SystemExit, match="case_3.json"):
        run(results, capsys, "U-Net, components")
    (results.parent / "truth/case_2.nii.gz").unlink()
    with pytest.raises(SystemExit, match="case_2.nii.gz"):
        run(results, capsys, "U-Net, components")
