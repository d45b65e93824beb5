"""Sessions on small images."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from balls import SHAPE, BallNetwork

from sam3d_nnunet.prediction.session import SAM3DSession


@pytest.fixture
def session(make_model) -> SAM3DSession:
    """With an untrained tiny model of two classes."""
    session = SAM3DSession(device="cpu", torch_n_threads=1)
    session.initialize_from_trained_model_folder(make_model().folder)
    return session


@pytest.fixture
def with_balls(session) -> Callable[..., tuple[SAM3DSession, BallNetwork, np.ndarray]]:
    """The session with another network, an image of 1 mm voxels and an empty target buffer."""

    def make(
        shape: tuple[int, ...] = SHAPE,
        spacing=(1, 1, 1),
        image: np.ndarray | None = None,
        clicks_select=False,
        **options,
    ):
        network = BallNetwork(**options)
        session.model = replace(session.model, networks=[network], clicks_select=clicks_select)
        image = np.random.default_rng(0).normal(100, 10, (1, *shape)) if image is None else image
        session.set_image(image, {"spacing": spacing})
        target = np.zeros(shape, np.uint8)
        session.set_target_buffer(target)
        return session, network, target

    return make
