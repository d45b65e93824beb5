"""1,000 random images and plans: world -> preprocessed grid -> world, and a click on a blob of one voxel."""

from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from scipy.spatial.transform import Rotation

from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.world import ImageGeometry

THOUSAND = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SPACING = st.tuples(*[st.floats(0.3, 7) | st.sampled_from([0.3, 1.0, 3.0, 7.0])] * 3)
PERMUTATIONS = st.permutations([0, 1, 2])


@dataclass
class Case:
    """An image and how nnU-Net preprocesses it.

    Attributes:
        geometry: of the image.
        shape: of its array.
        grid: the preprocessed grid.
        spacings: of the crop and of the grid, after the exchange of axes.
    """

    geometry: ImageGeometry
    shape: tuple[int, ...]
    grid: PreprocessedGrid
    spacings: tuple[np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn, largest: int, most_voxels: int) -> Case:
    """Any rotation, flips, exchanged axes, spacings, crop and transpose; the grid's shape is rounded as by nnU-Net.

    Args:
        largest: voxels of an axis of the image.
        most_voxels: of an axis of the grid.
    """
    rotation = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    flips = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = np.array(draw(SPACING))  # (x, y, z)
    itk = {
        "direction": (rotation * flips)[:, draw(PERMUTATIONS)].ravel(),
        "spacing": spacing,
        "origin": draw(st.tuples(*[st.floats(-500, 500)] * 3)),
    }
    shape = draw(st.tuples(*[st.integers(3, largest)] * 3))
    transpose = draw(PERMUTATIONS)
    starts = np.array([draw(st.integers(0, n - 2)) for n in np.array(shape)[transpose]])
    crop = np.array([draw(st.integers(2, n - s)) for n, s in zip(np.array(shape)[transpose], starts)])
    before = spacing[::-1][transpose]
    after = np.clip(draw(SPACING), before * crop / most_voxels, before * crop)  # 1 .. most_voxels on each axis
    properties = {
        "shape_before_cropping": tuple(shape[axis] for axis in transpose),
        "bbox_used_for_cropping": [[int(s), int(s + n)] for s, n in zip(starts, crop)],
        "shape_after_cropping_and_before_resampling": tuple(crop.tolist()),
    }
    grid = PreprocessedGrid.from_properties(properties, transpose, tuple(compute_new_shape(crop, before, after)))
    return Case(ImageGeometry.from_properties({"sitk_stuff": itk}), shape, grid, (before, after))


def test_world_to_grid_to_world():
    errors = []

    @THOUSAND
    @given(cases(largest=600, most_voxels=4000), st.integers(0, 2**32 - 1))
    def check(case, seed):
        voxels = np.random.default_rng(seed).uniform(-0.5, np.array(case.shape) - 0.5, (20, 3))
        world = case.geometry.to_world(voxels)
        coordinates = case.grid.from_image(case.geometry.to_voxels(world))
        back = case.geometry.to_world(case.grid.to_image(coordinates))
        errors.append(np.abs(back - world).max())
        assert errors[-1] < 1e-3

    check()
    assert len(errors) >= 1000
    print(f"{len(errors)} geometries, 20 points each: largest error {max(errors):.1e} mm")


def resample(segmentation: np.ndarray, case: Case) -> np.ndarray:
    """As nnU-Net's preprocessor: axes exchanged, cropped, then its own function with the plan's settings."""
    grid = case.grid
    box = tuple(slice(s, s + n) for s, n in zip(grid.crop_start, grid.crop_shape))
    cropped = segmentation.transpose(grid.transpose)[box]
    return resample_data_or_seg_to_shape(
        cropped[None], grid.shape, *case.spacings, is_seg=True, order=1, order_z=0, force_separate_z=None
    )[0]


def nearest_voxels(coordinate: np.ndarray) -> np.ndarray:
    """(n, 3) grid voxels nearest to a coordinate: one, and more only where it lies half-way between two."""
    axes = [sorted({int(np.rint(c - 1e-6)), int(np.rint(c + 1e-6))}) for c in coordinate]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def test_click_lands_in_its_blob():
    """On the grid, the voxel nearest to the click is part of the blob, if anything is.

    Interpolation is linear along each axis, so of all grid voxels the one nearest to the blob's centre holds the
    largest share of it: if any reaches the 0.5 that makes it part of the blob, that one does. Two things are legal:

    - A centre half-way between two grid voxels belongs to both; either will do.
    - A blob on a face of the crop is continued beyond it, so the outermost grid voxels hold all of it, more than the
      one nearest to its centre does. Then the neighbour of that one towards the face will do. Only where the grid is
      more than twice as fine.
    """
    outcome = {"vanished": 0, "in the blob": 0, "half-way": 0, "beside it, on a face": 0}
    whole_slices = []

    def click(case: Case, in_crop: np.ndarray) -> str:
        grid = case.grid
        voxel = (in_crop + grid.crop_start)[np.argsort(grid.transpose)]
        segmentation = np.zeros(case.shape, np.int8)
        segmentation[tuple(voxel)] = 1
        blob = resample(segmentation, case)
        assert blob.shape == tuple(grid.shape)

        world = case.geometry.to_world(voxel[None])  # what a file of clicks holds
        nearest = nearest_voxels(grid.from_image(case.geometry.to_voxels(world))[0])
        assert (nearest >= 0).all() and (nearest < grid.shape).all()
        if not blob.any():
            return "vanished"
        if blob[tuple(nearest.T)].any():
            return "in the blob" if len(nearest) == 1 else "half-way"
        finer = grid.shape > 2 * grid.crop_shape
        first, last = finer & (in_crop == 0), finer & (in_crop == grid.crop_shape - 1)
        towards_face = nearest + last.astype(int) - first
        assert blob[tuple(towards_face.T)].any(), (np.argwhere(blob), nearest)
        return "beside it, on a face"

    @THOUSAND
    @given(cases(largest=9, most_voxels=24), st.integers(0, 2**32 - 1))
    def check(case, seed):
        whole_slices.append(determine_do_sep_z_and_axis(None, *case.spacings)[0])
        for voxel in np.random.default_rng(seed).integers(0, case.grid.crop_shape, (4, 3)):
            outcome[click(case, voxel)] += 1

    check()
    print(f"{len(whole_slices)} geometries, {sum(whole_slices)} of them resampled slice by slice; blobs: {outcome}")
    assert len(whole_slices) >= 1000
    assert outcome["in the blob"] + outcome["half-way"] > 500
