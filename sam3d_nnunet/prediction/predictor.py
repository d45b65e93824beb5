"""SAM3DPredictor: segment images from clicks with a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sam3d_nnunet.datasets.case_files import stem
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box, off_faces
from sam3d_nnunet.geometry.grid import to_image
from sam3d_nnunet.geometry.turn import NO_TURN
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import reserve
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.prediction.cases import ImageCase, PreviousMask, read_case, read_previous_mask
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prediction.growth import MAX_WINDOWS, BoxLogits, compose, predict_per_lesion, predict_prompted
from sam3d_nnunet.prediction.model_folder import FINAL, Fold, TrainedModel, load_model_folder
from sam3d_nnunet.prediction.windows import FOLLOW, WindowPredictor, WindowRule, in_any
from sam3d_nnunet.prompts.files import check_crop, check_prompt
from sam3d_nnunet.prompts.prompt import Prompt, VoxelPrompts


@dataclass
class CasePrediction:
    """The prediction of an image.

    Attributes:
        case: the image.
        prompt: all clicks that were used, including those from a segmentation to refine.
        logits: on the preprocessed grid.
        owners: (d, h, w) int32 in the box of `logits`: the foreground click that each voxel belongs to, counted from 1.
            None without `per_lesion`.
        notes: remarks for the user.
        initial: label map of the original image outside the windows. None: background.
    """

    case: ImageCase
    prompt: Prompt
    logits: BoxLogits
    owners: np.ndarray | None
    notes: list[str]
    _model: TrainedModel
    initial: np.ndarray | None = None

    @property
    def outside(self) -> int:
        """Number of clicks that lie in no window, so that the network has not seen them."""
        return int((~in_any(self.logits.windows, _on_grid(self.prompt, self.case))).sum())

    def segmentation(self) -> np.ndarray:
        """Label map of the original image, its axes as nnU-Net's reader has them."""
        found = self.logits.segmentation(self.case.grid, self.case.shape, self._model.labels)
        if self.initial is None:
            return found
        windows = [window.in_image(self.logits.shape) for window in self.logits.windows]
        parts = [self.case.grid.box_in_image(window) for window in windows]
        return compose(self.initial, found, Box.of_shape(found.shape), parts)

    def probabilities(self, file: str | Path | None = None) -> np.ndarray:
        """(K, D, H, W) float32 of the original image.

        Args:
            file: .npy file that holds them, to save memory.
        """
        shape = (len(self.logits.logits), *self.case.shape)
        if file is None:
            probabilities = np.empty(shape, np.float32)
        else:
            probabilities = np.lib.format.open_memmap(file, "w+", np.float32, shape)
            reserve(Path(file))
        self.logits.write_probabilities(self.case.grid, self._model.labels, probabilities)
        return probabilities

    def instances(self, segmentation: np.ndarray) -> np.ndarray:
        """(D, H, W) int32: the lesion of each foreground voxel, 1 for the first foreground click; 0 for background.

        Args:
            segmentation: result of the method `segmentation`.

        Raises:
            SAM3DError: the image was not predicted with `per_lesion`.
        """
        if self.owners is None:
            raise SAM3DError("An instance map needs a prediction for each lesion: set per_lesion.")
        owners = np.zeros(self.logits.shape, np.int32)
        owners[self.logits.box.slices] = self.owners
        return np.where(segmentation > 0, to_image(owners, self.case.grid, self.case.shape), 0)


class SAM3DPredictor:
    """Loads a model as nnU-Net's predictor does, and predicts images from clicks.

    docs/guides/prediction.md shows how to use it. `predict_from_files` predicts many images into a folder.
    """

    def __init__(
        self,
        device: str | torch.device = AUTO,
        precision: str | None = None,
        use_mirroring: bool = True,
        max_windows: int = MAX_WINDOWS,
        max_volume_ml: float | None = None,
        keep_in_crop: bool = False,
        windows: str = FOLLOW.name,
    ) -> None:
        """
        Args:
            device: "cpu", "cuda", "mps", or "auto" for the GPU if there is one, else the CPU.
            precision: "auto", "bf16" or "fp32", see `SAM3D`; None: as in training.
            use_mirroring: average over mirrored images, if training mirrored images too.
            max_windows: growth stops at this number of windows.
            max_volume_ml: growth stops when the mask is so large. Default: no limit.
            keep_in_crop: move clicks on the empty border, which nnU-Net crops away, to the nearest voxel of the crop
                instead of refusing them. Use it for clicks from a true label map that covers the border.
            windows: "follow": windows around all clicks, and further ones as long as the mask continues. "single": one
                window around the middle of the clicks, as in the paper; it leaves out clicks outside of it.

        Raises:
            SAM3DError: there is no such device or no such rule for windows.
        """
        self.device = usable_device(device)
        self.precision = precision
        self.use_mirroring = use_mirroring
        self.max_windows = max_windows
        self.max_volume_ml = max_volume_ml
        self.keep_in_crop = keep_in_crop
        self.windows = WindowRule.named(windows)
        self._model: TrainedModel | None = None

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str | Path,
        use_folds: Sequence[Fold] | Fold | None = None,
        checkpoint_name: str = FINAL,
    ) -> None:
        """Load a model, with the arguments and errors of `load_model_folder`."""
        self.use(load_model_folder(model_training_output_dir, use_folds, checkpoint_name))
        for network in self.model.networks:
            network.to(self.device)
            if self.precision is not None:
                network.precision = self.precision

    def use(self, model: TrainedModel) -> None:
        """Predict with a model that is loaded already, on its device and in its precision."""
        self._model = model

    @property
    def model(self) -> TrainedModel:
        """The loaded model.

        Raises:
            SAM3DError: no model has been loaded.
        """
        if self._model is None:
            raise SAM3DError("No model is loaded: call initialize_from_trained_model_folder first.")
        return self._model

    def check_clicks(
        self, prompt: Prompt, geometry: ImageGeometry, shape: tuple[int, ...], complete: bool = True
    ) -> None:
        """Refuse clicks that the model can't use on an image.

        Args:
            prompt, geometry, shape: as in `check_prompt`.
            complete: whether these are all clicks, so that one must be on foreground.

        Raises:
            SAM3DError: as in `check_prompt`; also if no click is on foreground, or if there is a background click and
                the model takes none.
        """
        if not complete and not len(prompt.points):
            return
        if not len(prompt.points):
            raise SAM3DError(
                f"There are no clicks on {prompt.image}. Give at least one, or segment the whole image automatically "
                "with nnUNetv2_predict and the same model."
            )
        if not self.model.clicks_carry_labels and (prompt.labels == 0).any():
            raise SAM3DError(
                f"There is a background click on {prompt.image}, but this model was trained with foreground clicks "
                "only. Remove it."
            )
        check_prompt(prompt, geometry, shape, self.model.click_labels)
        if complete and not (prompt.labels > 0).any():
            raise SAM3DError(f"All clicks on {prompt.image} are on background. Give at least one on foreground.")

    def predict_case(
        self,
        image_files: Sequence[str | Path],
        prompt: Prompt | None = None,
        per_lesion: bool = False,
        refine_from: str | Path | None = None,
    ) -> CasePrediction:
        """Segment an image from clicks.

        Args:
            image_files: one for each channel.
            prompt: the clicks. None: only those from `refine_from`.
            per_lesion: predict each foreground click separately (with all background clicks), then unite the masks.
            refine_from: an existing segmentation on the voxels of the image. The model gets it as previous mask, with a
                click in each of its components.

        Raises:
            SAM3DError: a file can't be read, or the clicks don't fit the image and the model.
        """
        return self.predict_read(read_case(image_files, self.model), prompt, per_lesion, refine_from)

    def predict_read(
        self,
        case: ImageCase,
        prompt: Prompt | None = None,
        per_lesion: bool = False,
        refine_from: str | Path | None = None,
        maps: DensePrompts | None = None,
    ) -> CasePrediction:
        """Like `predict_case`, for an image that has been read.

        Args:
            maps: dense prompts on the preprocessed grid, for models that take them. Those from `refine_from` take their
                place.
        """
        previous = None
        if refine_from is not None:
            name = stem(refine_from, self.model.file_ending) if prompt is None else prompt.image
            previous = read_previous_mask(refine_from, case, self.model, name)
            maps = previous.maps
        elif prompt is None:
            raise SAM3DError("There is no prompt and no segmentation to refine. Give one of them.")
        prompt, notes = self._all_clicks(prompt, previous)
        notes += [*self._turned(case), *([] if case.note is None else [case.note])]
        if previous is None or len(prompt.points):
            self.check_clicks(prompt, case.geometry, case.shape)
            if self.keep_in_crop:
                prompt = _into_crop(prompt, case)
            check_crop(prompt, case.geometry, case.grid)
            logits, owners = self._logits(case, prompt, per_lesion, maps if self.model.takes_maps else None)
        else:
            notes.append("the segmentation to refine is empty, so the result is empty")
            logits, owners = self._nothing(case), np.zeros((0, 0, 0), np.int32) if per_lesion else None
        if logits.hit_cap:
            notes.append(f"stopped at {logits.hit_cap}: the object may be larger")
        prediction = CasePrediction(case, prompt, logits, owners, notes, self.model)
        if prediction.outside:
            notes.append(f"{prediction.outside} of {len(prompt.points)} click(s) outside the window were not used")
        return prediction

    def predict_nothing(self, case: ImageCase, prompt: Prompt) -> CasePrediction:
        """The prediction of an image without clicks: all background."""
        return CasePrediction(case, prompt, self._nothing(case), None, [], self.model)

    def _turned(self, case: ImageCase) -> list[str]:
        """A note if the image lies otherwise than those of the training."""
        if case.turn == NO_TURN:
            return []
        return [f"turned from {case.geometry.orientation} to {self.model.orientation}, as the training images lie"]

    def _all_clicks(self, prompt: Prompt | None, previous: PreviousMask | None) -> tuple[Prompt, list[str]]:
        notes = [] if prompt is None else list(prompt.notes)
        if previous is None:
            return prompt, notes
        if not self.model.takes_maps:
            notes.append("the model takes no previous mask: only clicks from the segmentation are used")
        if previous.components > len(previous.prompt.points):
            notes.append(
                f"clicks in the {len(previous.prompt.points)} largest of {previous.components} components to refine"
            )
        added = previous.prompt
        if prompt is None:
            return added, notes
        points, labels = np.concatenate([prompt.points, added.points]), np.concatenate([prompt.labels, added.labels])
        return Prompt(points, labels, prompt.image), notes

    def _logits(
        self, case: ImageCase, prompt: Prompt, per_lesion: bool, maps: DensePrompts | None
    ) -> tuple[BoxLogits, np.ndarray | None]:
        predictor = WindowPredictor(
            self.model.networks,
            case.on_grid,
            tuple(self.model.configuration.patch_size),
            self.model.region_order,
            self.model.mirror_axes if self.use_mirroring else None,
            clicks_carry_labels=self.model.clicks_carry_labels,
            clicks_select=self.model.clicks_select,
        )
        caps = {"max_windows": self.max_windows, "max_voxels": self._max_voxels(case)}
        predict = partial(predict_prompted, predictor, **caps, rule=self.windows)
        prompts = VoxelPrompts(_on_grid(prompt, case), prompt.labels, maps)
        return predict_per_lesion(predict, prompts) if per_lesion else (predict(prompts), None)

    def _max_voxels(self, case: ImageCase) -> int | None:
        """`max_volume_ml` in voxels of the preprocessed grid."""
        if self.max_volume_ml is None:
            return None
        voxel_ml = case.voxel_ml * np.prod(case.grid.crop_shape) / np.prod(case.grid.shape)
        return max(1, int(self.max_volume_ml / voxel_ml))

    def _nothing(self, case: ImageCase) -> BoxLogits:
        labels = self.model.labels
        logits = torch.zeros((labels.num_segmentation_heads, 0, 0, 0))
        return BoxLogits(logits, (0, 0, 0), case.on_grid.shape, labels.has_regions)


def _on_grid(prompt: Prompt, case: ImageCase) -> np.ndarray:
    """(N, 3) where clicks lie on the preprocessed grid; those on its outer faces, in its outermost voxels."""
    return off_faces(case.grid.from_image(case.geometry.to_voxels(prompt.points)), case.grid.shape)


def _into_crop(prompt: Prompt, case: ImageCase) -> Prompt:
    voxels = case.geometry.to_voxels(prompt.points)
    kept = case.grid.clip(voxels)
    moved = (np.abs(kept - voxels) > 0.5).any(axis=1, keepdims=True)
    return replace(prompt, points=np.where(moved, case.geometry.to_world(kept), prompt.points))
