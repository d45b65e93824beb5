"""One case of a published data set into nnU-Net's layout, checked on the way."""

import os
import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import SimpleITK as sitk

from sam3d_nnunet.datasets.sources import ENDING, Source
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.header import Grid

SAME_PLACE = 0.1
"""Of the smallest side of a voxel: how far label map and image may be apart to be taken for equal."""
WRITING = "writing"
"""In an unfinished data set: files that aren't whole yet."""


class CaseConverter:
    """Writes cases of a data set into a folder; a case that is there is left alone."""

    def __init__(self, source: Source, folder: Path, ignore_label_geometry: bool) -> None:
        """
        Args:
            source: the published data set.
            folder: with imagesTr, labelsTr, imagesTs and, for unfinished files, WRITING.
            ignore_label_geometry: take label maps to lie on the voxels of their images, whatever their headers say.
        """
        self.source, self.folder, self.ignore_label_geometry = source, folder, ignore_label_geometry

    def training_case(self, name: str) -> bool:
        """Write image and label map.

        Returns:
            Whether the image's header says nothing about its geometry.

        Raises:
            SAM3DError: a file is missing or damaged, both don't fit together, or a value has no meaning.
        """
        case = self.source.training[name]
        grid = Grid.from_file(case.image)
        label = self.folder / "labelsTr" / f"{name}{ENDING}"
        if not label.exists():  # written last
            rewrite = self._check_label(case.label, grid, case.image)
            self._write_image(case.image, grid, self.folder / "imagesTr", name)
            with tempfile.TemporaryDirectory(dir=self.folder / WRITING) as temporary:
                written = Path(temporary) / label.name
                if rewrite:
                    _write_with_geometry(case.label, case.image, written)
                else:
                    _copy(case.label, written)
                os.replace(written, label)
        return grid.is_default()

    def test_image(self, name: str) -> bool:
        """Write an image without label map; as `training_case`."""
        image = self.source.test[name]
        grid = Grid.from_file(image)
        last = f"{name}_{len(self.source.channels) - 1:04}{ENDING}"
        if not (self.folder / "imagesTs" / last).exists():
            self._write_image(image, grid, self.folder / "imagesTs", name)
        return grid.is_default()

    def _check_label(self, file: Path, grid: Grid, image: Path) -> bool:
        """Whether the label map needs the image's header."""
        own = Grid.from_file(file)
        if own.size != grid.size[:3]:
            raise SAM3DError(f"{file} has {own.size} voxels, its image {image} {grid.size[:3]}.")
        shift = own.shift(grid)
        if shift > SAME_PLACE * grid.finest_spacing() and not self.ignore_label_geometry:
            raise SAM3DError(
                f"{file} doesn't lie on its image {image}: a corner is {shift:.3g} mm away by the headers. If the "
                "voxels correspond all the same, use --ignore-label-geometry."
            )
        stored = np.ravel(_stored(file))
        values = pd.unique(stored.astype(stored.dtype.newbyteorder("="), copy=False))
        strange = sorted(set(values.tolist()) - set(self.source.labels.values()))
        if strange:
            raise SAM3DError(f"{file} holds values without a meaning: {', '.join(f'{v:g}' for v in strange[:10])}.")
        return shift > 0

    def _write_image(self, file: Path, grid: Grid, folder: Path, name: str) -> None:
        channels = len(self.source.channels)
        if grid.channels != channels:
            raise SAM3DError(f"{file} has {grid.channels} channel(s), the data set {channels}.")
        _stored(file, last_slice_only=True)  # ITK takes the missing end of a damaged file for zeros
        with tempfile.TemporaryDirectory(dir=self.folder / WRITING) as temporary:
            if len(grid.size) == 3:
                _copy(file, Path(temporary) / f"{name}_0000{ENDING}")
            else:
                image = _read(file)
                for channel in range(channels):
                    written = Path(temporary) / f"{name}_{channel:04}{ENDING}"
                    sitk.WriteImage(image[:, :, :, channel], str(written), True)
            for written in sorted(Path(temporary).iterdir()):
                os.replace(written, folder / written.name)


def _copy(file: Path, written: Path) -> None:
    """The same bytes where they are compressed already."""
    if file.name.endswith(ENDING):
        shutil.copyfile(file, written)
    else:
        sitk.WriteImage(_read(file), str(written), True)


def _write_with_geometry(file: Path, like: Path, written: Path) -> None:
    label, header = _read(file), Grid.from_file(like)
    spacing = np.linalg.norm(header.affine[:3, :3], axis=0)
    label.SetSpacing(spacing.tolist())
    label.SetDirection((header.affine[:3, :3] / spacing).ravel().tolist())
    label.SetOrigin(header.affine[:3, 3].tolist())
    sitk.WriteImage(label, str(written), True)


def _read(file: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(file))
    except RuntimeError as e:
        raise SAM3DError(f"{file} can't be read: {str(e).strip().splitlines()[-1]}") from e


def _stored(file: Path, last_slice_only: bool = False) -> np.ndarray:
    """Values in a file, which has to be whole up to them."""
    try:
        values = nibabel.load(file).dataobj
        return np.asarray(values[..., -1] if last_slice_only else values)
    except Exception as e:  # whatever the broken bytes lead to
        raise SAM3DError(f"{file} is damaged ({type(e).__name__}: {e}). Get it again.") from e
