"""SAM3DSession: segment an image in memory, one interaction after the other."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box, hull
from sam3d_nnunet.geometry.label_values import whole_labels
from sam3d_nnunet.prediction.image_session import ImageSession, NotReady
from sam3d_nnunet.prediction.interaction import InteractiveMask
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
from sam3d_nnunet.prediction.session_image import Region, SessionImage, box_points, fill_contour
from sam3d_nnunet.prompts.prompt import BOX, SCRIBBLE


class SAM3DSession(ImageSession):
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
        self._last_paste_bbox = as_ends(hull(differs, changed and Box.from_lists(changed)))
        started.touched = hull(started.touched, differs)
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

    def _with_target(self, method: str = "interactions") -> InteractiveMask:
        mask = self._object(method)
        if mask.target is None:
            raise NotReady("There is no target buffer for this image: call set_target_buffer after set_image.")
        return mask

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
