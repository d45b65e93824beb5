"""A seeded synthetic data set, similar to CT, in which half of the cases need a click.

Each case has one labelled lesion. Every other case also has a look-alike nearby, with the same size, shape and
intensity, which is not labelled. Chance decides which of the two is the lesion, so only a click can tell.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.geometry.writing import write_volume
from sam3d_nnunet.io import read_json, write_json

MANIFEST = "phantom.json"
ENDING = ".nii.gz"
SIZE = 56.0  # mm a side
MARGIN = 2.0  # mm between a lesion and the border of the image
RADII = (4.5, 7.5)  # mm
CONTRAST = (50.0, 80.0)  # HU above the organ
GAP = (2.0, 5.0)  # mm between the spheres around a lesion and its look-alike
ORGAN, FAT, BLOOD = 60.0, -80.0, 220.0  # HU


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid in world coordinates.

    Attributes:
        centre: (x, y, z) in millimetres, LPS.
        radii: millimetres along its own axes.
        rotation: quaternion (x, y, z, w) from its axes to the axes of the world.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    rotation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    def depth(self, world: np.ndarray) -> np.ndarray:
        """(..., 3) points -> (...) approximate depth below the surface in mm, negative outside."""
        own = (world - np.array(self.centre)) @ Rotation.from_quat(self.rotation).as_matrix()
        return (1 - np.linalg.norm(own / np.array(self.radii), axis=-1)) * min(self.radii)

    def mask(self, world: np.ndarray) -> np.ndarray:
        """(..., 3) points -> (...) bool, True inside."""
        return self.depth(world) > 0


@dataclass(frozen=True)
class PhantomCase:
    """The content of an image.

    Attributes:
        lesion: the labelled object.
        lookalike: its unlabelled copy at another place, or None.
        intensity: of both, in HU.
    """

    lesion: Ellipsoid
    lookalike: Ellipsoid | None
    intensity: float


def make_phantom(folder: Path, seed: int, count: int = 36) -> list[str]:
    """Write a data set in nnU-Net's raw layout, with the manifest `phantom.json`.

    Args:
        folder: of the data set, named as nnU-Net wants it.
        seed: the same seed gives the same files.
        count: number of cases. Every other one has a look-alike.

    Returns:
        Names of the cases.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cases = {}
    for index in tqdm(range(count), desc="Drawing cases"):
        name, rng = f"phantom_{index:03d}", np.random.default_rng([seed, index])
        image, segmentation, cases[name] = _draw_case(rng, with_lookalike=index % 2 == 1)
        write_volume(image, folder / "imagesTr" / f"{name}_0000{ENDING}")
        write_volume(segmentation, folder / "labelsTr" / f"{name}{ENDING}")
    manifest = {"seed": seed, "cases": {name: asdict(case) for name, case in cases.items()}}
    write_json(folder / MANIFEST, manifest, indent=1)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": count,
        "file_ending": ENDING,
    }
    write_json(folder / "dataset.json", description, indent=1)
    return list(cases)


def read_manifest(folder: Path) -> dict[str, PhantomCase]:
    """The content of each case, by name, of a data set that `make_phantom` wrote."""
    cases = read_json(folder / MANIFEST)["cases"]
    return {
        name: PhantomCase(
            Ellipsoid(**case["lesion"]), case["lookalike"] and Ellipsoid(**case["lookalike"]), case["intensity"]
        )
        for name, case in cases.items()
    }


def image_geometry(image: sitk.Image) -> ImageGeometry:
    """Geometry of an image."""
    itk = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    return ImageGeometry.from_properties({"sitk_stuff": itk})


def world_grid(image: sitk.Image) -> np.ndarray:
    """(D, H, W, 3) world coordinates of all voxels of an image, in mm."""
    shape = image.GetSize()[::-1]
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return image_geometry(image).to_world(voxels.reshape(-1, 3)).reshape(*shape, 3)


def _draw_case(rng: np.random.Generator, with_lookalike: bool) -> tuple[sitk.Image, sitk.Image, PhantomCase]:
    spacing = np.array([1.2, 1.2, 2.5]) * rng.uniform(0.9, 1.1, 3)[[0, 0, 1]]  # (x, y, z), square pixels
    shape = tuple(int(n) for n in np.round(SIZE / spacing)[::-1])
    origin = rng.uniform(-150, 150, 3)
    frame = sitk.Image(shape[::-1], sitk.sitkUInt8)
    frame.SetSpacing(spacing.tolist())
    frame.SetOrigin(origin.tolist())
    world = world_grid(frame)
    middle = origin + (np.array(shape[::-1]) - 1) * spacing / 2
    case = _draw_lesion(middle, rng, with_lookalike)
    image = _background(world, middle, spacing[::-1], rng)
    for solid in (case.lesion, case.lookalike):
        if solid is not None:
            image = _blend(image, case.intensity, solid.depth(world))
    image += _texture(shape, spacing[::-1], rng)
    return (
        _to_itk(np.round(image).astype(np.int16), frame),
        _to_itk(case.lesion.mask(world).astype(np.uint8), frame),
        case,
    )


def _draw_lesion(middle: np.ndarray, rng: np.random.Generator, with_lookalike: bool) -> PhantomCase:
    radii = rng.uniform(*RADII, 3)
    rotation = Rotation.random(rng=rng).as_quat()
    intensity = ORGAN + rng.uniform(*CONTRAST)
    room = SIZE / 2 - radii.max() - MARGIN
    if with_lookalike:
        # mostly side by side within a slice, so that one slice can show both
        step = np.array([*rng.normal(size=2), 0.2 * rng.normal()])
        step *= (2 * radii.max() + rng.uniform(*GAP)) / np.linalg.norm(step)
    else:
        step = np.zeros(3)
    lesion = middle + rng.uniform(-1, 1, 3) * (room - np.abs(step) / 2) + step / 2

    def solid(centre: np.ndarray) -> Ellipsoid:
        return Ellipsoid(tuple(centre.tolist()), tuple(radii.tolist()), tuple(rotation.tolist()))

    return PhantomCase(solid(lesion), solid(lesion - step) if with_lookalike else None, float(intensity))


def _background(world: np.ndarray, middle: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A large organ in fat, with vessels brighter than any lesion."""
    organ = Ellipsoid(tuple(middle + rng.uniform(-6, 6, 3)), tuple(rng.uniform(30, 40, 3)))
    image = _blend(np.full(world.shape[:-1], FAT), ORGAN, organ.depth(world))
    for _ in range(rng.integers(1, 4)):
        axis = Rotation.random(rng=rng).as_quat()
        vessel = Ellipsoid(tuple(middle + rng.uniform(-22, 22, 3)), (1.5, 2.0, 60.0), tuple(axis))
        image = _blend(image, BLOOD, vessel.depth(world))
    return image


def _blend(image: np.ndarray, intensity: float, depth: np.ndarray) -> np.ndarray:
    """Paint an object. Its surface is blurred over one millimetre, as in a scanner."""
    share = np.clip(depth + 0.5, 0, 1)
    return image * (1 - share) + intensity * share


def _texture(shape: tuple[int, int, int], spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of scanner and tissue: grains of several sizes in mm, each with its standard deviation in HU."""
    image = np.zeros(shape)
    for grain, deviation in ((0.6, 12.0), (2.5, 6.0), (8.0, 6.0)):
        noise = gaussian_filter(rng.normal(size=shape), grain / spacing, mode="wrap")
        image += noise * deviation / noise.std()
    return image


def _to_itk(array: np.ndarray, frame: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(frame)
    return image
