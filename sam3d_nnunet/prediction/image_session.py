"""What a session holds in memory: a model, an image and the buffer for its mask."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
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
from sam3d_nnunet.prediction.session_arguments import Ends, as_array, as_ends, checked_point
from sam3d_nnunet.prediction.session_image import SessionImage, warm_up
from sam3d_nnunet.prediction.target_buffer import TargetBuffer
from sam3d_nnunet.processes import usable_cores


class NotReady(SAM3DError):
    """There is no image or no target buffer yet."""


class ImageSession:
    """The part of `SAM3DSession` that comes before the first interaction."""

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
        torch.set_num_threads(min(torch_n_threads, usable_cores()))

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

    @property
    def classes(self) -> ServedClasses:
        """The classes that users can mark, and their labels in the model.

        Raises:
            SAM3DError: there is no model.
        """
        self._loaded("classes")
        return self._classes

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

    def __enter__(self) -> "ImageSession":
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

    @property
    def _touched(self) -> Ends | None:
        """The box of all voxels that may have changed since the target buffer was set or cleared; None if none has."""
        return None if self._mask is None else as_ends(self._mask.touched)

    def _loaded(self, method: str) -> TrainedModel:
        if self.model is None:
            raise SAM3DError(f"There is no model yet: call initialize_from_trained_model_folder before {method}.")
        return self.model

    def _object(self, method: str) -> InteractiveMask:
        if self._mask is None:
            raise NotReady(f"There is no image yet: call set_image before {method}.")
        return self._mask

    def _forget_image(self) -> None:
        self._mask: InteractiveMask | None = None
        self._last_point: np.ndarray | None = None
        self._last_paste_bbox: Ends | None = None  # clients read it
        self.original_image_shape: tuple[int, ...] | None = None
