"""The authors' checkpoints as model folders: same images into the network, same logits out of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.network.weights import load_released_checkpoint
from sam3d_nnunet.nnunet.registration import EXT_FOLDER
from sam3d_nnunet.prediction.import_released import DATASET, import_released, released_plans
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.prompt import Prompt

TOLERANCE = 1e-5
# clip low, clip high, mean, standard deviation: what the checkpoints expect, from design.md
CONSTANTS = {
    "kits21_tumor": (-54, 247, 59.53867, 55.457336),
    "msd_pancreas_tumor": (-39, 204, 68.45214, 63.422806),
    "lits17_tumor": (-48, 163, 60.057533, 40.198017),
    "msd_colon": (-57, 175, 65.175035, 32.651197),
}
CLICKS = np.array([[20.0, 16.0, 18.0], [23.0, 12.0, 30.0]])  # (d, h, w)


@pytest.fixture(scope="module")
def ct() -> np.ndarray:
    """(i, j, k) HU, i to the right, j to the front, k to the head."""
    return np.random.default_rng(0).integers(-1000, 1500, (44, 40, 36)).astype(np.int16)


@pytest.fixture(scope="module")
def checkpoint(recipe, tmp_path_factory) -> Iterator[Path]:
    """A file laid out like the authors', with the golden weights."""

    def part(name: str) -> dict[str, torch.Tensor]:
        shapes = {n: s for n, s in recipe.layout()[name].items() if not n.endswith("attn_mask")}
        return {n: torch.from_numpy(a) for n, a in recipe.state_dict(name, shapes, 0).items()}

    content = {
        "epoch": 3,
        "best_val_loss": np.float32(0.25),
        "encoder_dict": part("encoder"),
        "feature_dict": [{}, {}, {}, part("prompt3")],
        "decoder_dict": part("decoder"),
    }
    file = tmp_path_factory.mktemp("released") / "kits.pth"
    torch.save(content, file)
    yield file
    shutil.rmtree(file.parent)  # 400 MB each, which pytest would keep for three runs


@pytest.fixture(scope="module")
def model_folder(checkpoint) -> Path:
    done = CliRunner().invoke(
        cli.app, ["import-released", str(checkpoint), "--task", "kits21_tumor", "-o", str(checkpoint.parent / "model")]
    )
    assert done.exit_code == 0, done.output
    assert str(checkpoint.parent / "model") in done.output
    return checkpoint.parent / "model"


def write(ct: np.ndarray, affine: np.ndarray, file: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(ct, affine), file)
    return file


def with_small_patch(model_folder: Path, copy: Path) -> Path:
    """The same model with patches of 32^3, which take a second."""
    copy.mkdir()
    for name in ("dataset.json", "fold_0"):
        (copy / name).symlink_to(model_folder / name)
    plans = json.loads((model_folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]
    (copy / "plans.json").write_text(json.dumps(plans))
    return copy


def preprocess(file: Path, plans: PlansManager) -> np.ndarray:
    configuration = plans.get_configuration("3d_fullres")
    data, _, _ = configuration.preprocessor_class(verbose=False).run_case(
        [str(file)], None, plans, configuration, DATASET
    )
    return data


def by_hand(ct: np.ndarray, task: str) -> np.ndarray:
    """(1, D, H, W), D from foot to head."""
    low, high, mean, sd = CONSTANTS[task]
    return ((np.clip(ct.astype(np.float64), low, high) - mean) / sd).transpose(2, 1, 0)[None]


def relative_error(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("task", CONSTANTS)
def test_images_are_normalised_as_released(task, ct, tmp_path):
    image = preprocess(write(ct, np.eye(4), tmp_path / "ct.nii.gz"), PlansManager(released_plans(task)))
    assert relative_error(image, by_hand(ct, task)) < 1e-6


def test_slices_follow_each_other_along_d_however_they_are_stored(ct, tmp_path):
    # slices first, from the head down, rows from the front: as KiTS has them
    stored = ct.transpose(2, 1, 0)[::-1, ::-1]
    affine = np.array([[0, 0, 1, 0], [0, -1, 0, ct.shape[1] - 1], [-1, 0, 0, ct.shape[2] - 1], [0, 0, 0, 1]])
    plans = PlansManager(released_plans("kits21_tumor"))
    usual = preprocess(write(ct, np.eye(4), tmp_path / "usual.nii.gz"), plans)
    assert np.array_equal(preprocess(write(stored, affine, tmp_path / "kits.nii.gz"), plans), usual)


def test_logits_are_those_of_the_released_network_applied_by_hand(checkpoint, model_folder, ct, tmp_path):
    predictor = SAM3DPredictor(precision="fp32", max_windows=1)
    predictor.initialize_from_trained_model_folder(with_small_patch(model_folder, tmp_path / "model"))
    world = CLICKS[:, ::-1] * [-1, -1, 1]  # voxels of 1 mm from the origin to the right, front and head -> LPS
    prompt = Prompt(world, np.ones(2, np.int64), "ct")
    found = predictor.predict_case([write(ct, np.eye(4), tmp_path / "ct.nii.gz")], prompt).logits
    (window,) = found.windows
    assert window.size == (32, 32, 32) and (found.start, found.logits.shape[1:]) == (window.start, window.size)

    released = load_released_checkpoint(checkpoint).eval()
    patch = by_hand(ct, "kits21_tumor")[(slice(None), *found.box.slices)]
    points = torch.tensor(CLICKS - window.start, dtype=torch.float32)[None]
    with torch.no_grad():
        prompts = Prompts(points, torch.ones(1, 2, dtype=torch.long))
        expected = released(torch.tensor(patch, dtype=torch.float32)[None], prompts)
    error = relative_error(found.logits, expected[0])
    print(f"relative error {error:.1e}")
    assert error <= TOLERANCE


def test_nnunet_loads_the_folder(model_folder, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(EXT_FOLDER))
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(model_folder), None)
    assert predictor.trainer_name == "SAM3DAdapterTrainer"
    assert predictor.allowed_mirroring_axes is None
    assert predictor.label_manager.foreground_labels == [1]
    assert predictor.configuration_manager.patch_size == [128, 128, 128]
    assert predictor.network.dense_prompt is None
    assert predictor.network.initialized  # nothing is loaded over it where training starts from it


def test_plans_fit_nnunets_own_network():
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    configuration = PlansManager(released_plans("msd_colon")).get_configuration("3d_fullres")
    names = (configuration.network_arch_class_name, configuration.network_arch_init_kwargs)
    network = get_network_from_plans(*names, configuration.network_arch_init_kwargs_req_import, 1, 2)
    assert network.compute_conv_feature_map_size(configuration.patch_size) > 0


def test_unknown_task_names_the_known_ones(tmp_path):
    with pytest.raises(SAM3DError) as e:
        import_released(tmp_path / "kits.pth", "kits", tmp_path / "model")
    assert "'kits'" in str(e.value) and all(task in str(e.value) for task in CONSTANTS)


def test_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(SAM3DError, match="already exists"):
        import_released(tmp_path / "kits.pth", "kits21_tumor", tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!doctype html>", "it is a text file"),
        ({"model": torch.zeros(1)}, "kits.pth .* released 3DSAM-adapter checkpoint: .* 'encoder_dict'"),
        ({"encoder_dict": {}, "feature_dict": [{}], "decoder_dict": {}}, "its decoder lacks"),
        ({"encoder_dict": {3: torch.zeros(1)}}, "its 'encoder_dict' does not hold the expected tensors"),
        (None, "There is no file"),
    ],
)
def test_other_files_are_refused_and_leave_nothing(content, said, tmp_path):
    file = tmp_path / "kits.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(SAM3DError, match=said):
        import_released(file, "kits21_tumor", tmp_path / "models" / "kits")
    assert not (tmp_path / "models").exists()


def test_other_number_of_classes_is_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=False)
    content["decoder_dict"]["cls.3.weight"] = torch.zeros(4, 128, 3, 3, 3)
    torch.save(content, tmp_path / "four.pth")
    with pytest.raises(SAM3DError, match="four.pth .*4 classes"):
        import_released(tmp_path / "four.pth", "kits21_tumor", tmp_path / "model")
    (tmp_path / "four.pth").unlink()


def test_failed_writing_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(*arguments):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SAM3DError, match="can't be written: PytorchStreamWriter"):
        import_released(checkpoint, "kits21_tumor", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_help_shows_an_example():
    assert "Example: sam3d import-released" in CliRunner().invoke(cli.app, ["import-released", "--help"]).output
