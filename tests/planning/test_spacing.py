import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sam3d_nnunet.datasets.spacing import isotropic_spacing, refuse_flat_images, refuse_target_spacing
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.planner import SAM3DPlanner
from sam3d_nnunet.training.planned_trainer import complete_settings
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

NAME = "Dataset730_Any"
LABELS = {"background": 0, "lesion": 1}


@pytest.mark.parametrize(
    "spacing, side",
    [
        ((1.0, 1.0, 1.0), 1.0),
        ((5.0, 0.8, 0.8), 1.0),
        ((0.5, 0.5, 0.5), 1.0),  # exactly twice as coarse
        ((0.49, 0.49, 0.49), 0.49),
        ((0.05, 0.05, 0.05), 0.05),
        ((3.0, 0.2, 0.2), 0.493),  # as many voxels as before
        ((0.2, 3.0, 0.2), 0.493),  # whichever axis it is
        ((6.0, 0.35, 0.35), 1.0),  # thick slices
        ((1.0, 0.39, 0.39), 1.0),
        ((5.0, 0.45, 0.45), 1.0),
    ],
)
def test_side_of_a_voxel(spacing, side):
    assert isotropic_spacing([spacing] * 3) == side


def test_most_images_decide():
    assert isotropic_spacing([(0.1, 0.1, 0.1), (0.9, 0.9, 0.9), (0.8, 0.8, 0.8)]) == 1.0
    assert isotropic_spacing([(0.1, 0.1, 0.1), (0.2, 0.2, 0.2), (0.8, 0.8, 0.8)]) == 0.2


def test_flat_images_are_refused():
    refuse_flat_images("ab", [(5, 40, 40)] * 2, [(1.0, 1.0, 1.0)] * 2, (1.0, 1.0, 1.0))
    message = r"Voxels of 1 x 1 x 1 mm are too large: b has 5 x 40 x 40 voxels of 0.05 x 1 x 1 mm and would have 0 x 40"
    with pytest.raises(SAM3DError, match=message + r".*--spacing 0.05 1 1 .*, or"):
        refuse_flat_images("ab", [(5, 40, 40)] * 2, [(1.0, 1.0, 1.0), (0.05, 1.0, 1.0)], (1.0, 1.0, 1.0))
    with pytest.raises(SAM3DError, match="--spacing 0.3 1 1 .*-overwrite_target_spacing"):
        refuse_flat_images([], [(4, 40, 40)], [(0.3, 1.0, 1.0)], (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def plan(tmp_path_factory, write_dataset, write_fingerprint):
    """Plans images of any shape and spacing, of which nnU-Net's planner only asks the fingerprint."""
    root = tmp_path_factory.mktemp("any")
    volume = np.zeros((6, 6, 6))
    # listed, because nnU-Net starts processes to look for files
    listing = {"case": {"images": ["imagesTr/case_0000.nii.gz"], "label": "labelsTr/case.nii.gz"}}
    write_dataset(root / "raw", NAME, {"case": (volume, volume + 1)}, LABELS, dataset=listing)
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("nnUNet_n_proc_DA", "1")
        variables.setenv("nnUNet_raw", str(root / "raw"))
        variables.setenv("nnUNet_preprocessed", str(root / "preprocessed"))

        def run(shape, spacing, target=None) -> dict:
            write_fingerprint(root / "preprocessed" / NAME, [shape] * 3, spacing)
            planner = SAM3DPlanner(NAME, overwrite_target_spacing=target)
            planner.UNet_base_num_features = 4  # a small U-Net with the same layout
            planner.settings = {"preset": "tiny"}
            planner.plan_experiment()
            return json.loads((root / "preprocessed" / NAME / "SAM3DPlans.json").read_text())

        yield run


def check(plans: dict) -> list[int]:
    """Our trainer takes the plan, and both networks run in training mode; returns the patch size."""
    dataset_json = {"labels": LABELS, "channel_names": {"0": "CT"}}
    complete_settings(plans, "3d_fullres", dataset_json, SAM3DAdapterTrainer)
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    patch_size = configuration.patch_size
    with torch.device("meta"), torch.no_grad():  # shapes alone, without arithmetic
        unet = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            input_channels=1,
            output_channels=2,
            deep_supervision=False,
        )
        assert unet.train()(torch.zeros(1, 1, *patch_size)).shape == (1, 2, *patch_size)
    ours = SAM3DAdapterTrainer.build_network_architecture(manager, configuration, 1, 2)
    if np.prod(patch_size) <= 32**3:  # which takes less than a second
        with torch.no_grad():
            for logits in ours.train()(torch.zeros(1, 1, *patch_size)):
                assert logits.shape == (1, 2, *patch_size)
    return patch_size


@pytest.mark.parametrize(
    "shape, spacing, patch_size",
    [
        ((5, 24, 24), (1.0, 1.0, 1.0), [8, 24, 24]),  # few slices
        ((24, 32, 32), (0.05, 0.05, 0.05), [24, 32, 32]),  # micro-CT
        ((3, 9, 17), (0.6, 0.6, 0.6), [8, 8, 10]),
    ],
)
def test_both_networks_run_on_small_images(plan, shape, spacing, patch_size):
    assert check(plan(shape, spacing)) == patch_size


def test_finer_spacing_is_said_aloud_once(plan, capsys):
    plans = plan((40, 40, 32), (0.05, 0.05, 0.05))
    said = "more than 2 times as coarse as these images, whose median spacing is 0.05 x 0.05 x 0.05 mm. The target"
    assert capsys.readouterr().out.count(said) == 1
    assert plans["configurations"]["3d_fullres"]["spacing"] == [0.05, 0.05, 0.05]
    plans = plan((40, 40, 32), (0.05, 0.05, 0.05), target=(0.1, 0.1, 0.1))
    printed = capsys.readouterr().out
    assert said not in printed and "describes 3 images, but the data set has 1. If images" in printed
    assert plans["configurations"]["3d_fullres"]["spacing"] == [0.1, 0.1, 0.1]
    plans = plan((20, 40, 40), (6.0, 0.35, 0.35))
    assert said.partition(",")[0] not in capsys.readouterr().out
    assert plans["configurations"]["3d_fullres"]["spacing"] == [1.0, 1.0, 1.0]


sides = st.integers(2, 30) | st.integers(31, 400)
millimetres = st.floats(-1.7, 1.0).map(lambda power: round(10**power, 4))  # 0.02 to 10


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(sides, sides, sides), spacing=st.tuples(millimetres, millimetres, millimetres))
@example(shape=(5, 512, 512), spacing=(5.0, 0.7, 0.7))
@example(shape=(8, 8, 8), spacing=(0.02, 0.02, 0.02))
@example(shape=(60, 300, 300), spacing=(3.0, 0.2, 0.2))
@example(shape=(130, 5, 15), spacing=(10.0, 0.1, 0.0316))  # thousands of voxels
def test_no_plan_is_refused_by_the_trainer(plan, shape, spacing):
    side = isotropic_spacing([spacing])
    voxels = compute_new_shape(shape, spacing, [side] * 3)
    if min(voxels) < 2 or max(voxels) > 4096:  # the planner itself refuses what can't be trained on
        with pytest.raises(SAM3DError, match="too large" if min(voxels) < 2 else "too small"):
            plan(shape, spacing)
    else:
        check(plan(shape, spacing))


def test_images_become_no_thousands_of_voxels():
    with pytest.raises(SAM3DError, match="too small: case_1 has .* would have 5000 x 50 x 50, but 4096"):
        refuse_flat_images(["case_0", "case_1"], [(40, 50, 50), (50, 50, 50)], [(1, 1, 1)] * 2, (0.01, 1, 1))


@pytest.mark.parametrize("target", [(0, 1, 1), (1e-9, 1, 1), (float("inf"), 1, 1), (float("nan"), 1, 1), (1, 1)])
def test_target_spacings_that_no_image_has(target):
    with pytest.raises(SAM3DError, match="must be three numbers of mm"):
        refuse_target_spacing(target)
