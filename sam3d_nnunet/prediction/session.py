"""SAM3DSession: segment an image in memory, one interaction after the other."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.label_values import whole_labels
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.prediction.interaction import InteractiveMask, TargetBuffer
from sam3d_nnunet.prediction.model_folder import FINAL, Fold, TrainedModel, load_model_folder
from sam3d_nnunet.prediction.session_image import Region, SessionImage, box_points, fill_contour, geometry_of, warm_up
from sam3d_nnunet.prompts.prompt import BOX, SCRIBBLE

logger = logging.getLogger(__name__)

Ends = list[list[int]]
"""[[x1, x2], [y1, y2], [z1, z2]]: a box in the form of nnInteractive, upper ends not included."""


class SAM3DSession:
    """Segments one object after another from points, scribbles, lassos, boxes and existing masks.

    Methods, arguments and coordinates are those of nnInteractive's `nnInteractiveInferenceSession` (versions 1 and 2),
    so that code for it runs unchanged. Coordinates are voxels of the image array, in the order of its axes, centres at
    whole numbers. Boxes are [[low, high], ...] for each axis, `high` not included.

    After each interaction the mask is in the target buffer: labels of the model, 0 for the background.
    """

    preferred_scribble_thickness = (2, 2, 2)
    supported_interactions = {"points": True, "scribble": True, "lasso": True, "bbox2d": True, "bbox3d": True}
    supports_initial_label = True
    supports_zero_shot_label_refinement = True

    def __init__(
        self,
        device: torch.device | str | None = None,
        use_torch_compile: bool = False,
        verbose: bool = False,
        torch_n_threads: int = 8,
        do_autozoom: bool = True,
        use_pinned_memory: bool = True,
        interactions_storage: str = "auto",
        enable_undo: bool = True,
    ) -> None:
        """
        Args:
            device: where to compute. Default: "auto", the GPU if there is one, else the CPU.
            use_torch_compile, use_pinned_memory, interactions_storage: ignored.
            verbose: print the number of windows of each prediction.
            torch_n_threads: threads of torch, at most as many as the machine has cores.
            do_autozoom: add windows where the mask touches the face of a window.
            enable_undo: save what `undo` needs.

        Raises:
            SAM3DError: there is no such device.
        """
        self.device = usable_device(device or AUTO)
        self.verbose = verbose
        self.do_autozoom = do_autozoom
        self.supports_undo = enable_undo
        self.model: TrainedModel | None = None
        self.original_image_shape: tuple[int, ...] | None = None
        self._mask: InteractiveMask | None = None
        torch.set_num_threads(min(torch_n_threads, os.cpu_count() or 1))

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str | Path,
        use_fold: Fold | Sequence[Fold] | None = None,
        checkpoint_name: str = FINAL,
    ) -> None:
        """Load a model. An image that was set before is removed.

        Args:
            model_training_output_dir: TRAINER__PLANS__CONFIGURATION.
            use_fold: one or several folds, whose predictions are averaged. None: all folds.
            checkpoint_name: file in each fold.

        Raises:
            SAM3DError: the model can't be loaded.
        """
        model = load_model_folder(model_training_output_dir, use_fold, checkpoint_name)
        for network in model.networks:
            network.to(self.device)
        self.model, self._mask, self.original_image_shape = model, None, None

    def warmup(self) -> None:
        """Predict a window of zeros, so that the first click is as fast as later ones. Image and mask stay as they are.

        Raises:
            SAM3DError: there is no model.
        """
        if self.model is None:
            raise SAM3DError("There is no model yet: call initialize_from_trained_model_folder before warmup.")
        warm_up(self.model)

    def set_image(self, image: np.ndarray | Tensor, image_properties: dict[str, Any] | None = None) -> None:
        """Set the image. Set its target buffer next; the buffers of earlier images stay as they are.

        Args:
            image: (C, x, y, z), not preprocessed: the model's plan says how to resample and normalise.
            image_properties: "spacing" holds the millimetres along each axis of the array. Default: 1. The model sees
                the image as its training images lie, if the properties tell how the array lies in the patient. They are
                those of nnU-Net's reader; or "direction" is ITK's `GetDirection()`, for the array of
                `GetArrayFromImage`; or "affine" is nibabel's, for the array of `get_fdata()`, and tells the spacing,
                too. Otherwise the array must lie as the training images do.

        Raises:
            SAM3DError: there is no model, or it can't be applied to this image.
        """
        if self.model is None:
            raise SAM3DError("There is no model yet: call initialize_from_trained_model_folder before set_image.")
        properties = image_properties or {}
        geometry, spacing = geometry_of(properties), properties.get("spacing")
        if spacing is None and properties.get("affine") is not None:
            spacing = geometry.spacing
        if spacing is None:
            logger.warning("The image has no spacing: 1 mm along each axis is assumed.")
            spacing = (1.0, 1.0, 1.0)
        self._mask = None  # one image in memory, not two
        self._mask = InteractiveMask(
            SessionImage(self.model, _as_array(image), spacing, geometry), self.model, self.supports_undo
        )
        self.original_image_shape = tuple(image.shape)

    def set_target_buffer(self, target_buffer: np.ndarray | Tensor) -> None:
        """Set the array or tensor (x, y, z) that gets the mask. Earlier interactions can't be undone any more.

        Raises:
            SAM3DError: there is no image, or the buffer has another shape or is read-only.
        """
        self._object("set_target_buffer").set_target(TargetBuffer(target_buffer, self._mask.image.shape))

    @property
    def target_buffer(self) -> np.ndarray | Tensor | None:
        """The array or tensor that holds the mask."""
        return self._mask.target.buffer if self._mask is not None and self._mask.target is not None else None

    def set_do_autozoom(self, do_autozoom: bool, max_num_patches: int | None = None) -> None:
        """Switch growth on or off, see the constructor. `max_num_patches` is ignored."""
        self.do_autozoom = do_autozoom

    def add_point_interaction(
        self,
        coordinates: Sequence[float],
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
        *,
        class_label: int = 1,
    ) -> Ends | None:
        """Click on the object or on background.

        Args:
            coordinates: (x, y, z) voxel of the image.
            include_interaction: False for a click on background.
            run_prediction: predict now. False: with the next interaction.
            override_capability_checks: ignored.
            class_label: class of the click, for models of several classes.

        Returns:
            The box of all changed voxels; None if there are none, or without prediction.

        Raises:
            SAM3DError: the click is outside the image, the model doesn't know its label, or the image or target buffer
                is missing. Nothing has changed then.
        """
        label = self._label(include_interaction, class_label)
        point = np.asarray(coordinates, dtype=float).reshape(-1)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise SAM3DError(f"A point needs three coordinates (x, y, z), not {coordinates}.")
        if not ((point >= -0.5) & (point <= np.array(self._mask.image.shape) - 0.5)).all():
            raise SAM3DError(f"The point {point.tolist()} lies outside the image, which has {self._size()} voxels.")
        self._refuse_empty_border(point, label)
        return self._interact(point[None], label, run_prediction)

    def add_scribble_interaction(
        self,
        scribble_image: np.ndarray | Tensor,
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
        interaction_bbox: Ends | None = None,
        *,
        class_label: int = 1,
    ) -> Ends | None:
        """Draw on the object or on background.

        Args:
            scribble_image: not 0 on the scribble. Has the shape of the image, or of `interaction_bbox`.
            include_interaction, run_prediction, override_capability_checks, class_label: as in `add_point_interaction`.
            interaction_bbox: the part of the image that `scribble_image` covers. Default: the whole image.

        Returns, Raises:
            As in `add_point_interaction`. An empty scribble changes nothing.
        """
        label = self._label(include_interaction, class_label)
        region = self._drawn("scribble", scribble_image, interaction_bbox, label)
        if region is None:
            return None
        return self._interact(region.points, label, run_prediction, SCRIBBLE, region)

    def add_lasso_interaction(
        self,
        lasso_image: np.ndarray | Tensor,
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
        interaction_bbox: Ends | None = None,
        *,
        class_label: int = 1,
    ) -> Ends | None:
        """Draw a rough outline around the object or around background: a closed contour, or the region inside it.

        Arguments, result and errors are those of `add_scribble_interaction`.
        """
        label = self._label(include_interaction, class_label)
        region = self._drawn("lasso", lasso_image, interaction_bbox, label, fill_contour)
        if region is None:
            return None
        return self._interact(region.points, label, run_prediction, BOX, region)

    def add_bbox_interaction(
        self,
        bbox_coords: Ends,
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
        *,
        class_label: int = 1,
    ) -> Ends | None:
        """Draw a box around the object or around background, in one slice or in 3-D.

        Args:
            bbox_coords: [[x1, x2], [y1, y2], [z1, z2]], upper ends not included. Parts outside the image are ignored.
            include_interaction, run_prediction, override_capability_checks, class_label: as in `add_point_interaction`.

        Returns, Raises:
            As in `add_point_interaction`. An empty box is an error, too.
        """
        label = self._label(include_interaction, class_label)
        seen = self._seen(self._inside_image(_checked_box(bbox_coords)), label)
        if seen is None:
            return None
        region = Region(np.ones(seen.shape, bool), seen.start)
        return self._interact(box_points(seen), label, run_prediction, BOX, region)

    def add_initial_seg_interaction(
        self,
        initial_seg: np.ndarray | Tensor,
        run_prediction: bool = False,
        override_capability_checks: bool = False,
    ) -> Ends | None:
        """Start from an existing mask. This removes all other interactions.

        Args:
            initial_seg: (x, y, z) labels of the model; copied into the target buffer.
            run_prediction: improve the mask now. Otherwise it stays as it is until the next interaction, which changes
                it in the predicted windows only.
            override_capability_checks: ignored.

        Returns:
            The box of all changed voxels; None if there are none, or without prediction.

        Raises:
            SAM3DError: the mask has another shape than the image or a value that is no label of the model, or the image
                or target buffer is missing. Nothing has changed then.
        """
        mask, labels = _as_array(initial_seg), self._known_labels("add_initial_seg_interaction")
        if mask.shape != self._mask.image.shape:
            raise SAM3DError(f"The mask has the shape {mask.shape}, but the image has {self._mask.image.shape}.")
        mask = whole_labels(mask, "The mask")
        unknown = mask[~np.isin(mask, [0, *labels])]
        if len(unknown):
            known = ", ".join(map(str, labels))
            raise SAM3DError(f"The mask has the label {unknown[0]}, but the model knows {known}, and 0 for background.")
        mask = mask.astype(np.min_scalar_type(max(labels)))
        return _as_ends(self._with_target().start_from(mask, run_prediction, self.do_autozoom))

    def undo(self) -> bool:
        """Undo the last interaction: the mask becomes what it was, bit for bit.

        All interactions since the last reset, image or target buffer can be undone.

        Returns:
            Whether there was an interaction.
        """
        return self._object("undo").undo()

    def reset_interactions(self) -> None:
        """Clear the target buffer and remove all interactions, for the next object. This can't be undone."""
        self._object("reset_interactions").reset()

    # --- checks of arguments ---

    def _object(self, method: str) -> InteractiveMask:
        if self._mask is None:
            raise SAM3DError(f"There is no image yet: call set_image before {method}.")
        return self._mask

    def _with_target(self) -> InteractiveMask:
        if self._mask.target is None:
            raise SAM3DError("There is no target buffer for this image: call set_target_buffer after set_image.")
        return self._mask

    def _known_labels(self, method: str) -> list[int]:
        self._object(method)
        return [int(label) for label in self.model.labels.foreground_labels]

    def _label(self, include: bool, class_label: int) -> int:
        """Of an interaction."""
        known = self._known_labels("interactions")
        if not include and not self.model.clicks_carry_labels:
            raise SAM3DError(
                "This model takes foreground prompts only (include_interaction=True): it was trained with unlabelled "
                "clicks, like the published models."
            )
        if include and class_label not in known:
            raise SAM3DError(f"The model has no class {class_label}. It knows {', '.join(map(str, known))}.")
        return int(class_label) if include else 0

    def _size(self) -> str:
        return " x ".join(map(str, self._mask.image.shape))

    def _refuse_empty_border(self, point: np.ndarray, label: int) -> None:
        """Refuse foreground prompts on the empty border, which the model does not see; there is background."""
        content = self._mask.image.grid.crop
        low, high = np.array(content.start) - 0.5, np.array(content.stop) - 0.5
        if label > 0 and not ((point >= low) & (point <= high)).all():
            raise SAM3DError(
                f"The prompt at {point.tolist()} lies on the empty border of the image (all voxels 0), which is "
                "cropped away before prediction. Move it onto what the image shows."
            )

    def _inside_image(self, box: Box) -> Box:
        inside = box.intersection(Box.of_shape(self._mask.image.shape))
        if inside.is_empty:
            raise SAM3DError(f"The box {box.as_lists()} lies outside the image, which has {self._size()} voxels.")
        return inside

    def _seen(self, box: Box, label: int) -> Box | None:
        """The part of a box that the model sees; None for a background prompt outside it."""
        seen = box.intersection(self._mask.image.grid.crop)
        if not seen.is_empty:
            return seen
        self._refuse_empty_border(np.mean([box.start, box.stop], axis=0) - 0.5, label)
        return None

    def _drawn(
        self,
        kind: str,
        image: np.ndarray | Tensor,
        ends: Ends | None,
        label: int,
        complete: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
    ) -> Region | None:
        """The part of a drawn mask that the model sees; None if there is none."""
        whole = Box.of_shape(self._mask.image.shape)
        mask = _as_array(image) != 0
        box = whole if ends is None else _checked_box(ends)
        if box.intersection(whole) != box:
            raise SAM3DError(
                f"The box {box.as_lists()} of the {kind} reaches beyond the image, which has {self._size()} voxels."
            )
        if mask.shape != box.shape:
            raise SAM3DError(f"The {kind} has the shape {mask.shape} instead of {box.shape}.")
        drawn = Box.from_mask(mask)
        if drawn is None:
            logger.warning("The %s is empty and changes nothing.", kind)
            return None
        mask, drawn = complete(mask[drawn.slices]), drawn.shifted(box.start)
        seen = self._seen(drawn, label)
        if seen is None:
            return None
        mask = mask[seen.within(drawn).slices]
        if not mask.any():
            self._refuse_empty_border(np.array(drawn.start, float), label)
            return None
        return Region(mask, seen.start)

    def _interact(
        self, points: np.ndarray, label: int, predict: bool, kind: int | None = None, region: Region | None = None
    ) -> Ends | None:
        mask = self._with_target() if predict else self._mask
        # training draws no boxes on background, so points work better there
        if self.model.takes_maps and kind is not None and (kind, label) != (BOX, 0):
            points = points[:1]
        else:
            kind, region = None, None
        changed = _as_ends(mask.interact(points, label, predict, self.do_autozoom, kind, region))
        if self.verbose and predict and mask.last is not None:
            cap = f"; stopped at {mask.last.hit_cap}" if mask.last.hit_cap and self.do_autozoom else ""
            print(f"Predicted {len(mask.last.windows)} window(s), changed {changed}{cap}")
        return changed


def _as_array(values: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def _as_ends(box: Box | None) -> Ends | None:
    return None if box is None else box.as_lists()


def _checked_box(ends: Ends) -> Box:
    """A box of whole numbers that is not empty."""
    values = np.asarray(ends, dtype=float)
    if values.shape != (3, 2) or not np.isfinite(values).all():
        raise SAM3DError(f"A box needs [[x1, x2], [y1, y2], [z1, z2]], not {ends}.")
    values = np.rint(values).astype(int)
    if (values[:, 0] >= values[:, 1]).any():
        raise SAM3DError(
            f"The box {values.tolist()} is empty: upper ends, which are not included, must be above lower ends."
        )
    return Box.from_lists(values.tolist())
