import json
import multiprocessing.dummy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.plan_dataset import _with_preset, differences, plan_dataset
from sam3d_nnunet.planning.planner import SAM3DPlanner, patch_side
from sam3d_nnunet.planning.settings import SAM3DSettings, parse_settings

LABELS = {"background": 0, "lesion": 1}
CT = "Dataset701_AnisotropicCT"


@pytest.mark.parametrize(
    "extent, side",
    [
        (37, 37),  # 64 would add too much
        (50, 50),
        (51, 51),
        (51.2, 64),  # exactly a quarter more
        (52, 64),
        (64, 64),
        (65, 65),
        (76, 76),
        (76.5, 96),
        (96, 96),
        (97, 97),
        (103, 128),
        (128, 128),
        (160, 128),
        (512, 128),
        (8, 8),
        (5, 8),  # nnU-Net pads smaller images
        (2, 8),
    ],
)
def test_side_of_a_patch(extent, side):
    assert patch_side(extent) == side


def cases(shape: tuple[int, ...], count: int = 4, foreground: bool = True) -> dict[str, tuple]:
    rng = np.random.default_rng(0)
    segmentation = np.zeros(shape, np.uint8)
    if foreground:
        segmentation[tuple(slice(n // 3, n // 3 + 4) for n in shape)] = 1
    return {f"case_{i}": (rng.normal(50, 20, shape) + 60 * segmentation, segmentation) for i in range(count)}


def plan_of(folders: SimpleNamespace, name: str, plans: str = "SAM3DPlans") -> dict:
    return json.loads((folders.preprocessed / name / f"{plans}.json").read_text())


@pytest.fixture(scope="module")
def planned_ct(tmp_path_factory, write_dataset, run_command) -> SimpleNamespace:
    """A CT of 3 x 0.8 x 0.8 mm, planned with the command as a user would."""
    root = tmp_path_factory.mktemp("ct")
    folders = SimpleNamespace(raw=root / "raw", preprocessed=root / "preprocessed", results=root / "results")
    write_dataset(folders.raw, CT, cases((12, 60, 50)), LABELS, (3.0, 0.8, 0.8), "CT")
    variables = {f"nnUNet_{name}": str(folder) for name, folder in vars(folders).items()}
    done = run_command("sam3d", "plan", "-d", "701", nnUNet_def_n_proc="1", **variables)
    assert done.returncode == 0, done.stderr
    folders.output = done.stdout
    return folders


@pytest.fixture
def ct(planned_ct, monkeypatch) -> SimpleNamespace:
    """The same, for planning again in this process, which finds the fingerprint ready."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(getattr(planned_ct, name)))
    return planned_ct


def test_command_plans_an_anisotropic_ct(ct):
    plans = plan_of(ct, CT)
    assert f"plans: {ct.preprocessed / CT / 'SAM3DPlans.json'}" in ct.output
    assert "next: nnUNetv2_preprocess -d 701 -plans_name SAM3DPlans -c 3d_fullres" in ct.output
    assert plans["plans_name"] == "SAM3DPlans"
    assert plans["experiment_planner_used"] == "SAM3DPlanner"
    assert set(plans["configurations"]) == {"2d", "3d_fullres"}  # no cascade

    fullres = plans["configurations"]["3d_fullres"]
    assert fullres["spacing"] == [1, 1, 1]
    assert fullres["median_image_size_in_voxels"] == [36, 48, 40]
    assert fullres["patch_size"] == [40, 48, 40]
    assert fullres["normalization_schemes"] == ["CTNormalization"]
    assert fullres["sam3d"] == SAM3DSettings(stride=2, orientation="LPS").model_dump()  # at most 32 tokens a side


def test_2d_configuration_is_nnunets(ct):
    flat = plan_of(ct, CT)["configurations"]["2d"]
    assert "sam3d" not in flat
    assert len(flat["patch_size"]) == 2
    assert flat["architecture"]["arch_kwargs"]["conv_op"] == "torch.nn.modules.conv.Conv2d"


def unet_output(plans: dict) -> tuple[int, ...]:
    """Shape of what the plan's own U-Net says about one of its patches."""
    manager = PlansManager(plans).get_configuration("3d_fullres")
    halvings = np.prod(manager.network_arch_init_kwargs["strides"], axis=0)
    assert (np.array(manager.patch_size) % halvings == 0).all()
    assert (np.array(manager.patch_size) // halvings >= 4).all()  # nnU-Net's rule for the deepest level
    with torch.device("meta"):  # shapes alone, without arithmetic
        network = get_network_from_plans(
            manager.network_arch_class_name,
            manager.network_arch_init_kwargs,
            manager.network_arch_init_kwargs_req_import,
            input_channels=1,
            output_channels=2,
            deep_supervision=False,
        )
        return tuple(network(torch.zeros(1, 1, *manager.patch_size)).shape)


def test_unet_of_the_plan_runs_on_its_patches(ct):
    assert unet_output(plan_of(ct, CT)) == (1, 2, 40, 48, 40)


def test_target_spacing_can_be_chosen(ct):
    planner = SAM3DPlanner(CT, plans_name="Coarse", overwrite_target_spacing=[1.5, 0.8, 2.0])
    planner.plan_experiment()
    plans = plan_of(ct, CT, "Coarse")
    # nnU-Net puts the axis of the largest spacing first
    assert plans["transpose_forward"] == [2, 0, 1]
    fullres = plans["configurations"]["3d_fullres"]
    assert fullres["spacing"] == [2.0, 1.5, 0.8]
    assert fullres["median_image_size_in_voxels"] == [20, 24, 60]
    assert fullres["patch_size"][2] == 64
    assert unet_output(plans) == (1, 2, *fullres["patch_size"])


def test_recipe(ct, tmp_path):
    recipe = tmp_path / "recipe.json"
    content = {
        "target_spacing": [2, 1, 1],  # whole numbers, as people write them
        "patch_size": [16, 32, 24],
        "sam3d": {"preset": "vit_l", "batch_size": 1, "optimizer": {"lr": 4e-4}},
    }
    recipe.write_text(json.dumps(content))
    file = plan_dataset("701", str(recipe), "FromRecipe", preset="tiny")
    assert file == ct.preprocessed / CT / "FromRecipe.json"
    plans = plan_of(ct, CT, "FromRecipe")
    fullres = plans["configurations"]["3d_fullres"]
    assert fullres["spacing"] == [2, 1, 1]
    assert fullres["patch_size"] == [16, 32, 24]
    expected = SAM3DSettings(preset="tiny", batch_size=1, stride=2, orientation="LPS").model_dump()
    expected["optimizer"]["lr"] = 4e-4
    assert fullres["sam3d"] == expected
    assert unet_output(plans) == (1, 2, 16, 32, 24)

    plan_dataset(CT, str(recipe), "FromRecipe", target_spacing=(3.0, 0.8, 0.8))  # said aloud, it wins
    assert plan_of(ct, CT, "FromRecipe")["configurations"]["3d_fullres"]["spacing"] == [3, 0.8, 0.8]


def test_patch_sizes_of_recipes_have_the_axes_of_their_spacing(ct, tmp_path):
    """nnU-Net's plans begin with the coarsest axis."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"target_spacing": [1, 1, 3], "patch_size": [32, 24, 16]}))
    plan_dataset("701", str(recipe), "Sagittal")
    plans = plan_of(ct, CT, "Sagittal")
    assert plans["transpose_forward"] == [2, 0, 1]
    assert plans["configurations"]["3d_fullres"]["spacing"] == [3, 1, 1]
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [16, 32, 24]
    assert differences(plans, json.loads(recipe.read_text())) == []


def test_plans_that_share_data_agree_on_how_they_are_made(ct, tmp_path):
    """Else a training would see images at another spacing than its plans say, and so would predictions."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"target_spacing": [2, 1, 1], "sam3d": {"preset": "tiny"}}))
    for name, seed in (("Shared", None), ("Shared", 1), ("Shared", 1)):
        plan_dataset("701", str(recipe), name, seed=seed)
    names = {plan_of(ct, CT, n)["configurations"]["3d_fullres"]["data_identifier"] for n in ("Shared", "Shared_seed1")}
    assert names == {"Shared_3d_fullres"}
    before = (ct.preprocessed / CT / "Shared_seed1.json").read_bytes()
    (ct.preprocessed / CT / "notes.json").write_text("[]")  # no plans
    try:
        for options in ({"seed": 1}, {"seed": 2}, {}, {"seed": 2, "target_spacing": (2.0, 1.0, 1.5)}):
            with pytest.raises(SAM3DError, match="Shared_.*spacing.*--overwrite-plans-name"):
                plan_dataset("701", None, "Shared", **options)
        with pytest.raises(SAM3DError, match="Other.*Shared_.*spacing"):
            plan_dataset("701", None, "Other", data_plans="Shared")
    finally:
        (ct.preprocessed / CT / "notes.json").unlink()
    assert (ct.preprocessed / CT / "Shared_seed1.json").read_bytes() == before
    assert not list(ct.preprocessed.glob(f"{CT}/Other*")) + list(ct.preprocessed.glob(f"{CT}/*_seed2*"))
    plan_dataset("701", None, "Fine")  # data of its own


def test_recipe_with_an_unusable_setting_writes_nothing(ct, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"sam3d": {"presett": "tiny"}}))
    with pytest.raises(SAM3DError, match="'presett'"):
        plan_dataset("701", str(recipe), "Broken")
    assert not (ct.preprocessed / CT / "Broken.json").exists()
    recipe.write_text(json.dumps({"sam3d": {"networks": {"UXNet3dTrainer": {}}}}))
    with pytest.raises(SAM3DError, match="UXNet3dTrainer.*UXNet3DTrainer"):
        plan_dataset("701", str(recipe), "Broken")
    assert not (ct.preprocessed / CT / "Broken.json").exists()
    recipe.write_text(json.dumps({"sam3d": {"preset": "paper"}}))
    with pytest.raises(SAM3DError, match="clicks.policy.*'paper'"):
        plan_dataset("701", str(recipe), "Broken")
    assert not (ct.preprocessed / CT / "Broken.json").exists()


def test_hippocampus(nnunet_folders, write_dataset, write_fingerprint):
    name = "Dataset004_Hippocampus"
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    write_dataset(nnunet_folders.raw, name, cases((37, 50, 36), count=1), labels)
    write_fingerprint(nnunet_folders.preprocessed / name, [(37, 50, 36), (35, 49, 35), (38, 52, 37)])
    plan_dataset("4")
    plans = plan_of(nnunet_folders, name)
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [40, 56, 40]
    assert unet_output(plans) == (1, 2, 40, 56, 40)


def test_abdominal_ct_has_cubes_of_128(nnunet_folders, write_dataset, write_fingerprint):
    name = "Dataset702_Abdomen"
    write_dataset(nnunet_folders.raw, name, cases((8, 8, 8), count=1), LABELS)
    write_fingerprint(nnunet_folders.preprocessed / name, [(100, 512, 512)] * 3, (5.0, 0.8, 0.8))
    plan_dataset("702")
    plans = plan_of(nnunet_folders, name)
    fullres = plans["configurations"]["3d_fullres"]
    assert fullres["median_image_size_in_voxels"] == [500, 410, 410]
    assert fullres["patch_size"] == [128, 128, 128]
    assert fullres["sam3d"]["stride"] == 4
    assert set(plans["configurations"]) == {"2d", "3d_fullres"}  # nnU-Net alone would add a cascade


def test_2d_data_set_is_refused(nnunet_folders, write_dataset, write_fingerprint):
    name = "Dataset703_Flat"
    write_dataset(nnunet_folders.raw, name, cases((1, 30, 30)), LABELS)
    write_fingerprint(nnunet_folders.preprocessed / name, [(1, 30, 30)] * 4, (999.0, 1.0, 1.0))
    with pytest.raises(SAM3DError, match=f"{name}.*2-D"):
        plan_dataset("703")
    assert not (nnunet_folders.preprocessed / name / "SAM3DPlans.json").exists()


@pytest.mark.parametrize("channels", ["channel_names", "modality"])
def test_labels_that_are_all_background_are_refused(nnunet_folders, write_dataset, monkeypatch, capfd, channels):
    name = "Dataset704_Empty"
    folder = write_dataset(nnunet_folders.raw, name, cases((6, 6, 6), foreground=False), LABELS)
    content = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(content.replace("channel_names", channels))
    in_threads = SimpleNamespace(get_context=lambda kind: multiprocessing.dummy)
    monkeypatch.setattr(fingerprint_extractor, "multiprocessing", in_threads)
    monkeypatch.setattr(sys, "argv", ["sam3d", "plan", "-d", "704"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    stderr = capfd.readouterr().err
    assert stderr.splitlines()[-1].startswith("Error: ") and name in stderr.splitlines()[-1]
    assert "foreground" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert list(nnunet_folders.preprocessed.iterdir()) == []


NIBABEL = {"overwrite_image_reader_writer": "NibabelIO"}  # ITK reads 0 for such voxels of NIfTI


def set_voxel(folder: Path, case: str, value: float) -> None:
    file = folder / "imagesTr" / f"{case}_0000.nii.gz"
    image = nibabel.load(file)
    array = image.get_fdata(dtype=np.float32)
    array[3, 3, 3] = value
    nibabel.save(nibabel.Nifti1Image(array, image.affine), file)


def test_infinite_voxels_under_a_label_are_named(nnunet_folders, write_dataset, write_fingerprint):
    """They are no lack of foreground."""
    name = "Dataset708_Infinite"
    folder = write_dataset(nnunet_folders.raw, name, cases((9, 9, 9)), LABELS, **NIBABEL)
    set_voxel(folder, "case_2", np.inf)
    write_fingerprint(nnunet_folders.preprocessed / name, [(9, 9, 9)] * 4)
    file = nnunet_folders.preprocessed / name / "dataset_fingerprint.json"
    content = json.loads(file.read_text())
    content["foreground_intensity_properties_per_channel"]["0"] |= {"mean": np.inf, "std": np.nan, "max": 2**70}
    file.write_text(json.dumps(content))
    with pytest.raises(
        SAM3DError, match=rf"1 case\(s\) of {name} hold NaN or infinite voxels: case_2. .*delete {file}"
    ):
        SAM3DPlanner(name)
    set_voxel(folder, "case_2", 1.0)
    with pytest.raises(SAM3DError, match=r"not finite \(the mean is inf\), but no image .* no foreground voxel"):
        SAM3DPlanner(name)


def test_images_with_nan_are_named(nnunet_folders, write_dataset, monkeypatch):
    """nnU-Net's fingerprint ends in an AssertionError that does not name them."""
    name = "Dataset709_NaN"
    folder = write_dataset(nnunet_folders.raw, name, cases((9, 9, 9)), LABELS, **NIBABEL)
    set_voxel(folder, "case_3", np.nan)
    in_threads = SimpleNamespace(get_context=lambda kind: multiprocessing.dummy)
    monkeypatch.setattr(fingerprint_extractor, "multiprocessing", in_threads)
    with pytest.raises(SAM3DError, match=rf"1 case\(s\) of {name} hold NaN or infinite voxels: case_3"):
        plan_dataset(name)


def test_label_map_of_another_shape_is_named(nnunet_folders, write_dataset, monkeypatch):
    """nnU-Net's fingerprint ends in a ValueError of NumPy's that does not name it."""
    name = "Dataset709_Shapes"
    folder = write_dataset(nnunet_folders.raw, name, cases((9, 9, 9)), LABELS)
    label_map = folder / "labelsTr" / "case_3.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(label_map))[:-1], str(label_map))
    in_threads = SimpleNamespace(get_context=lambda kind: multiprocessing.dummy)
    monkeypatch.setattr(fingerprint_extractor, "multiprocessing", in_threads)
    with pytest.raises(SAM3DError, match=r"case_3.nii.gz has \(9, 9, 8\) voxels .*case_3_0000.nii.gz has \(9, 9, 9\)"):
        plan_dataset(name)


@pytest.mark.parametrize("other", ["wrong", "different"])
def test_folds_beside_the_raw_data(nnunet_folders, write_dataset, write_fingerprint, other):
    """nnU-Net's planner copies them without a look, or ends in an AssertionError."""
    name = "Dataset710_Folds"
    folder = write_dataset(nnunet_folders.raw, name, cases((9, 9, 9)), LABELS)
    write_fingerprint(nnunet_folders.preprocessed / name, [(9, 9, 9)] * 4)
    given, taken = folder / "splits_final.json", nnunet_folders.preprocessed / name / "splits_final.json"
    if other == "wrong":
        given.write_text('[{"train": ["case_0"]}]')
        message = f'Fold 0 of {given} has no list "val"'
    else:
        given.write_text('[{"train": ["case_0"], "val": ["case_1"]}]')
        taken.write_text('[{"train": ["case_0"], "val": ["case_2"]}]')
        message = f"{given} and {taken} hold different folds"
    with pytest.raises(SAM3DError, match=message):
        SAM3DPlanner(name)
    given.write_text('[{"train": ["case_0"], "val": ["case_2"]}]')
    SAM3DPlanner(name)
    assert json.loads(taken.read_text()) == json.loads(given.read_text())


@pytest.mark.parametrize(
    "file, message",
    [
        ("imagesTr/._case_0_0000.nii.gz", "hidden file .*._case_0_0000.nii.gz"),
        ("imagesTr/case_9.nii.gz", "case_9.nii.gz has no number of a channel"),
    ],
)
def test_names_that_nnunet_mixes_up(nnunet_folders, write_dataset, write_fingerprint, file, message):
    """nnU-Net's commands extract the fingerprint all the same, from the wrong cases."""
    name = "Dataset711_Names"
    folder = write_dataset(nnunet_folders.raw, name, cases((9, 9, 9)), LABELS)
    write_fingerprint(nnunet_folders.preprocessed / name, [(9, 9, 9)] * 4)
    SAM3DPlanner(name)
    shutil.copy(folder / "imagesTr" / "case_0_0000.nii.gz", folder / file)
    for plan in (SAM3DPlanner, plan_dataset):
        with pytest.raises(SAM3DError, match=message):
            plan(name)


@pytest.mark.parametrize(
    "file", [*(f"imagesTr/case_2_000{channel}.nii.gz" for channel in (0, 1)), "labelsTr/case_2.nii.gz"]
)
def test_sheared_files(nnunet_folders, write_dataset, write_fingerprint, file):
    name = "Dataset711_Sheared"
    folder = write_dataset(nnunet_folders.raw, name, cases((9, 9, 9)), LABELS, channel_names={"0": "T1", "1": "T2"})
    write_fingerprint(nnunet_folders.preprocessed / name, [(9, 9, 9)] * 4, channels=2)
    for case in range(4):
        shutil.copy(folder / f"imagesTr/case_{case}_0000.nii.gz", folder / f"imagesTr/case_{case}_0001.nii.gz")
    SAM3DPlanner(name)
    image = nibabel.load(folder / file)
    affine = image.affine.copy()
    affine[0, 1] = 0.3
    nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.uint8), affine), folder / file)
    with pytest.raises(SAM3DError, match="case_2.*its axes are sheared, .* Resample it"):
        SAM3DPlanner(name)


def test_no_class_beside_the_background(nnunet_folders, write_dataset, write_fingerprint):
    name = "Dataset705_NoClass"
    write_dataset(nnunet_folders.raw, name, cases((6, 6, 6)), {"background": 0})
    write_fingerprint(nnunet_folders.preprocessed / name, [(6, 6, 6)] * 4)
    with pytest.raises(SAM3DError, match=f"{name}.*a label other than the background"):
        plan_dataset("705")


def test_what_is_missing_is_named(nnunet_folders, write_dataset, monkeypatch):
    with pytest.raises(SAM3DError, match="777") as error:
        plan_dataset("777")
    assert "\n" not in str(error.value)
    with pytest.raises(SAM3DError, match="Dataset777_Missing.*dataset.json"):
        plan_dataset("Dataset777_Missing")
    with pytest.raises(SAM3DError, match="'hippocampus'"):
        plan_dataset("hippocampus")
    folder = write_dataset(nnunet_folders.raw, "Dataset706_Moved", cases((6, 6, 6), 1), LABELS)
    (folder / "imagesTr").rename(folder / "images")
    with pytest.raises(SAM3DError, match="Dataset706_Moved/imagesTr"):
        plan_dataset("706")
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SAM3DError, match="nnUNet_raw"):
        plan_dataset("4")


def test_preset_without_labels_gets_clicks_it_can_be_trained_with():
    settings = _with_preset({}, "paper")
    assert parse_settings(settings, "test").clicks.policy == "paper"
    assert _with_preset({}, "vit_l") == {"preset": "vit_l"}


@pytest.mark.parametrize("name", ["a/b", "a/", "a__b", "-a"])
def test_plans_are_named_like_a_file(nnunet_folders, write_dataset, name):
    write_dataset(nnunet_folders.raw, "Dataset707_Named", cases((6, 6, 6), 1), LABELS)
    with pytest.raises(SAM3DError, match=f"'{name}'"):
        plan_dataset("707", overwrite_plans_name=name)
    assert not any(nnunet_folders.preprocessed.iterdir())


def test_plans_do_not_depend_on_the_workers_of_trainings(ct, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # nnU-Net's own planners end in torch's error about threads
    written = json.loads(plan_dataset("701", overwrite_plans_name="Workerless", data_plans="SAM3DPlans").read_text())
    assert written == plan_of(ct, CT) | {"plans_name": "Workerless"}
