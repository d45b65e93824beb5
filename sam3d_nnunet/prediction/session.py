"""SAM3DSession: segment an image in memory, one interaction after the other."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.label_values import whole_labels
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.prediction.capabilities import (
    CHANNELS,
    INTERACTIONS,
    UNKNOWN_LICENSE,
    VERSION,
    ServedClasses,
    read_license,
)
from sam3d_nnunet.prediction.embeddings import EmbeddingCache
from sam3d_nnunet.prediction.image_properties import spacing_and_geometry
from sam3d_nnunet.prediction.interaction import InteractiveMask
from sam3d_nnunet.prediction.model_folder import FINAL, Fold, TrainedModel, load_model_folder
from sam3d_nnunet.prediction.session_arguments import (
    Ends,
    as_array,
    as_ends,
    checked_point,
    drawn_box,
    drawn_region,
    refuse_empty_border,
    seen_part,
)
from sam3d_nnunet.prediction.session_image import Region, SessionImage, box_points, fill_contour, warm_up
from sam3d_nnunet.prediction.target_buffer import TargetBuffer
from sam3d_nnunet.prompts.prompt import BOX, SCRIBBLE


class SAM3DSession:
    """Segments one object after another from points, scribbles, lassos, boxes and existing masks.

    Methods, arguments and coordinates are those of nnInteractive's `nnInteractiveInferenceSession` (versions 1 and 2),
    so that code for it runs unchanged. Coordinates are voxels of the image array, in the order of its axes, centres at
    whole numbers. Boxes are [[low, high], ...] for each axis, `high` not included.

    After each interaction the mask is in the target buffer: labels of the model, 0 for the background.

    Attributes:
        model: that is loaded, or None.
        supported_interactions: by name (`SUPPORTED_INTERACTION_KEYS`), whether the model takes them.
        supports_background: whether it takes prompts on background (`include_interaction=False`).
        supports_initial_label: whether it takes an existing mask.
        supports_zero_shot_label_refinement: whether it improves such a mask without further prompts.
        supports_undo: whether interactions can be undone.
        license: first line of the file LICENSE in the model folder; "!!MISSING!!" without one, None without a model.
        original_image_shape: (C, x, y, z) of the image, or None.
    """

    INFERENCE_SESSION_VERSION = VERSION
    SUPPORTED_INTERACTION_KEYS = INTERACTIONS
    channel_mapping = CHANNELS
    num_interaction_channels = 7
    interaction_decay = 1.0  # prompts keep their weight
    preferred_scribble_thickness = (2, 2, 2)

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
        self.license: str | None = None
        self.supported_interactions = dict.fromkeys(INTERACTIONS, False)
        self.supports_background = self.supports_initial_label = self.supports_zero_shot_label_refinement = False
        self._forget_image()
        torch.set_num_threads(min(torch_n_threads, os.cpu_count() or 1))

    # --- the model ---

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
        self.use_model(model, license=read_license(model_training_output_dir))

    def use_model(
        self,
        model: TrainedModel,
        *,
        embeddings: EmbeddingCache | None = None,
        foreground: int | None = None,
        license: str | None = None,
    ) -> None:
        """Use a model that is in memory. Several sessions can share one. An image that was set before is removed.

        Args:
            model: from `load_model_folder`; its networks are moved to the device of this session.
            embeddings: keeps embeddings of windows for several sessions within one budget. None: one of its own.
            foreground: label of the only class that is offered, as class 1: clicks with `class_label=1` mean it, and
                the target buffer holds 1 where the model says this label. None: all classes are offered.
            license: for clients to show.

        Raises:
            SAM3DError: the model has no such class.
        """
        classes = ServedClasses.of(model, foreground)
        for network in model.networks:
            network.to(self.device)
        self.close()
        self.model, self._classes = model, classes
        self._embeddings = EmbeddingCache() if embeddings is None else embeddings
        self.license = license or UNKNOWN_LICENSE
        self.supported_interactions = dict.fromkeys(INTERACTIONS, True)
        self.supports_initial_label = True
        self.supports_background = model.clicks_carry_labels
        self.supports_zero_shot_label_refinement = model.takes_maps

    def warmup(self) -> None:
        """Predict a window of zeros, so that the first click is as fast as later ones. Image and mask stay as they are.

        Raises:
            SAM3DError: there is no model.
        """
        warm_up(self._loaded("warmup"))

    def time_one_window(self) -> float:
        """Seconds that one window takes, encoded and decoded. Call `warmup` before: the first window takes longer.

        Raises:
            SAM3DError: there is no model.
        """
        model, start = self._loaded("time_one_window"), perf_counter()
        warm_up(model)
        return perf_counter() - start

    # --- the image ---

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
            SAM3DError: there is no model, or it can't be applied to this image. The image before stays in use then.
        """
        model = self._loaded("set_image")
        array = as_array(image, "image")
        spacing, geometry = spacing_and_geometry(image_properties)
        made = SessionImage(model, array, spacing, geometry, self._embeddings, self._classes.only)
        self.close()
        self._mask = InteractiveMask(made, model, self._classes, self.supports_undo)
        self.original_image_shape = array.shape

    def close(self) -> None:
        """Give back the memory of image, mask and embeddings. The model and the target buffer stay as they are."""
        if self._mask is not None:
            self._mask.image.close()
        self._forget_image()

    def __enter__(self) -> "SAM3DSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def embed_ahead(self, center: Sequence[float] | None = None, cancelled: Callable[[], bool] | None = None) -> bool:
        """Compute ahead what a click needs of the image, while nobody waits. No mask changes by this.

        Args:
            center: (x, y, z) voxel where a click is expected. None: the last prompt, or the middle of the image.
            cancelled: is asked before each layer of the networks; returns true to stop at once. It runs in the thread
                of this call, which may be another than that of the clicks.

        Returns:
            Whether a first click at the centre only has to be decoded now. False if it was cancelled, if the embedding
            is larger than the budget, or if there is no image.

        Raises:
            SAM3DError: the centre lies outside the image.
        """
        mask = self._mask
        if mask is None:
            return False
        point = self._last_point if center is None else checked_point(center, mask.image.shape)
        return mask.encode_ahead(point, cancelled or (lambda: False))

    def set_target_buffer(self, target_buffer: np.ndarray | Tensor) -> None:
        """Set the array or tensor (x, y, z) that gets the mask. Earlier interactions can't be undone any more.

        Raises:
            SAM3DError: there is no image, or the buffer has another shape, can't be written to, or has a type that
                can't hold the labels. The buffer before stays in use then.
        """
        mask = self._object("set_target_buffer")
        mask.set_target(TargetBuffer(target_buffer, mask.image.shape, max(self._classes.numbers)))
        self._last_paste_bbox = None

    @property
    def target_buffer(self) -> np.ndarray | Tensor | None:
        """The array or tensor that holds the mask."""
        return self._mask.target.buffer if self._mask is not None and self._mask.target is not None else None

    def set_do_autozoom(
        self, do_autozoom: bool | None = None, max_num_patches: int | None = None, *, do_propagation: bool | None = None
    ) -> None:
        """Switch growth on or off, see the constructor.

        Args:
            do_autozoom: whether there is growth.
            max_num_patches: ignored.
            do_propagation: name of `do_autozoom` in version 1 of nnInteractive.

        Raises:
            SAM3DError: neither is given, or both.
        """
        if (do_autozoom is None) == (do_propagation is None):
            raise SAM3DError("set_do_autozoom needs do_autozoom=True or False.")
        self.do_autozoom = bool(do_propagation if do_autozoom is None else do_autozoom)

    # --- interactions ---

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
        image, label = self._prompted(include_interaction, class_label)
        point = checked_point(coordinates, image.shape)
        refuse_empty_border(point, image, label)
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
        image, label = self._prompted(include_interaction, class_label)
        region = drawn_region("scribble", scribble_image, interaction_bbox, image, label)
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
        image, label = self._prompted(include_interaction, class_label)
        region = drawn_region("lasso", lasso_image, interaction_bbox, image, label, fill_contour)
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
            bbox_coords: [[x1, x2], [y1, y2], [z1, z2]], upper ends not included. They are rounded, and parts outside
                the image are ignored. Where no voxel is left along an axis, the slice below belongs to the box, or the
                first one, as in nnInteractive. Ends in the wrong order are exchanged.
            include_interaction, run_prediction, override_capability_checks, class_label: as in `add_point_interaction`.

        Returns, Raises:
            As in `add_point_interaction`.
        """
        image, label = self._prompted(include_interaction, class_label)
        seen = seen_part(drawn_box(bbox_coords, image.shape), image, label)
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
            initial_seg: (x, y, z) labels of the model; copied into the target buffer. If the model has one class, 255
                means it, too.
            run_prediction: improve the mask now. Otherwise it stays as it is until the next interaction, which changes
                it in the predicted windows only.
            override_capability_checks: ignored.

        Returns:
            The box of all changed voxels; None if there are none, or without prediction.

        Raises:
            SAM3DError: the mask has another shape than the image or a value that is no label of the model, or the image
                or target buffer is missing. Nothing has changed then.
        """
        image, given = self._object("add_initial_seg_interaction").image, as_array(initial_seg, "mask")
        if given.shape != image.shape:
            raise SAM3DError(f"The mask has the shape {given.shape}, but the image has {image.shape}.")
        mask = self._classes.mask_to_model(whole_labels(given, "The mask"))
        started = self._with_target()
        changed = self._changed(started.start_from(mask, run_prediction, self.do_autozoom), run_prediction)
        # clients have copied the mask themselves: what differs from it has changed for them
        differs = Box.from_mask(started.target[Box.of_shape(image.shape).slices] != given)
        boxes = [box for box in (differs, changed and Box.from_lists(changed)) if box is not None]
        self._last_paste_bbox = as_ends(boxes[0].union(*boxes[1:])) if boxes else None
        return changed

    def _predict(self, force_full_refine: bool = False) -> Ends | None:
        """Predict what was added with `run_prediction=False`. `undo` takes it back together with the last interaction.

        Clients call it, such as napari's for its button Run.

        Args:
            force_full_refine: ignored.

        Returns:
            The box of all changed voxels; None if there are none, or if nothing was added.

        Raises:
            SAM3DError: the image or target buffer is missing.
        """
        return self._changed(self._with_target("_predict").predict_waiting(self.do_autozoom), predicted=True)

    def undo(self) -> bool:
        """Undo the last interaction: the mask becomes what it was, bit for bit.

        All interactions since the last reset, image or target buffer can be undone.

        Returns:
            Whether there was an interaction; False without an image.
        """
        undone, changed = (False, None) if self._mask is None else self._mask.undo()
        self._last_paste_bbox = as_ends(changed)
        return undone

    def reset_interactions(self) -> None:
        """Clear the target buffer and remove all interactions, for the next object. This can't be undone.

        Without an image there is nothing to do.
        """
        self._last_paste_bbox = None
        if self._mask is not None:
            self._mask.reset()

    # --- what they share ---

    def _loaded(self, method: str) -> TrainedModel:
        if self.model is None:
            raise SAM3DError(f"There is no model yet: call initialize_from_trained_model_folder before {method}.")
        return self.model

    def _object(self, method: str) -> InteractiveMask:
        if self._mask is None:
            raise SAM3DError(f"There is no image yet: call set_image before {method}.")
        return self._mask

    def _with_target(self, method: str = "interactions") -> InteractiveMask:
        mask = self._object(method)
        if mask.target is None:
            raise SAM3DError("There is no target buffer for this image: call set_target_buffer after set_image.")
        return mask

    def _forget_image(self) -> None:
        self._mask: InteractiveMask | None = None
        self._last_point: np.ndarray | None = None
        self._last_paste_bbox: Ends | None = None  # clients read it
        self.original_image_shape: tuple[int, ...] | None = None

    def _prompted(self, include: bool, class_label: int) -> tuple[SessionImage, int]:
        """The image of an interaction, and its label: 0 for background, else that of the model."""
        image = self._object("interactions").image
        if not include and not self.model.clicks_carry_labels:
            raise SAM3DError(
                "This model takes foreground prompts only (include_interaction=True): it was trained with unlabelled "
                "clicks, like the published models."
            )
        return image, self._classes.to_model(class_label) if include else 0

    def _interact(
        self, points: np.ndarray, label: int, predict: bool, kind: int | None = None, region: Region | None = None
    ) -> Ends | None:
        mask = self._with_target() if predict else self._mask
        # training draws no boxes on background, so points work better there
        if self.model.takes_maps and kind is not None and (kind, label) != (BOX, 0):
            points = points[:1]
        else:
            kind, region = None, None
        changed = mask.interact(points, label, predict, self.do_autozoom, kind, region)
        self._last_point = np.asarray(points[0], dtype=float)
        return self._changed(changed, predict)

    def _changed(self, box: Box | None, predicted: bool) -> Ends | None:
        self._last_paste_bbox = as_ends(box)
        last = self._mask.last
        if self.verbose and predicted and last is not None:
            cap = f"; stopped at {last.hit_cap}" if last.hit_cap and self.do_autozoom else ""
            print(f"Predicted {len(last.windows)} window(s), changed {as_ends(box)}{cap}")
        return as_ends(box)
