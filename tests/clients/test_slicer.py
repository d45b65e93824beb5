"""What the nnInteractive extension of 3D Slicer (1.0 and later) does with the client's package, step by step.

Slicer has arrays in the order (k, j, i), a volume's spacing in the order (i, j, k) and prompts as points (i, j, k).
The extension turns spacing and points round, and takes its masks as they are. `SlicerUser` does the same, outside
Slicer, with the unmodified nninteractive-client and `sam3d serve`.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import uvicorn
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
from serving import server_process
from skimage.draw import polygon
from torch import Tensor, nn

from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.prediction.model_folder import load_model_folder
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.serve.app import create_app
from sam3d_nnunet.serve.pool import SessionPool

SIZE, SPACING = (22, 26, 11), (1.2, 0.8, 3.0)  # (i, j, k)
Index = Sequence[int]
"""(i, j, k) of a voxel, as Slicer's markups give it."""


class SlicerUser:
    """Segments a volume with a session as the extension does; `segments` are the finished ones.

    Args:
        session: the client's, or one in this process.
        volume: with spacing in ITK's order.
    """

    def __init__(self, session: object, volume: sitk.Image) -> None:
        self.session = session
        self.array = sitk.GetArrayFromImage(volume)  # as slicer.util.arrayFromVolume
        self.spacing = volume.GetSpacing()
        self.segments: list[np.ndarray] = []
        self.buffer: np.ndarray | None = None

    def connect(self) -> None:
        self.buffer = np.zeros(self.array.shape, np.uint8)
        self.session.set_image(np.ascontiguousarray(self.array[None]), {"spacing": list(self.spacing[::-1])})
        self.session.set_target_buffer(self.buffer)
        self.edit(None)

    def edit(self, segment: np.ndarray | None) -> None:
        """Before the first prompt on a segment, which may hold a mask already."""
        self.session.reset_interactions()
        if segment is not None and segment.any():
            self.session.add_initial_seg_interaction(segment.astype(np.uint8), run_prediction=False)

    def point(self, index: Index, positive: bool = True) -> None:
        self.session.add_point_interaction(list(index[::-1]), include_interaction=positive, run_prediction=True)

    def box(self, one: Index, other: Index, positive: bool = True) -> None:
        """Two corners in one slice."""
        corners = np.sort([one[::-1], other[::-1]], axis=0)
        ends = [[int(low), int(high) + (low == high)] for low, high in corners.T]
        self.session.add_bbox_interaction(ends, include_interaction=positive, run_prediction=True)

    def lasso(self, indices: Sequence[Index], positive: bool = True) -> None:
        """A polygon in one slice along k."""
        mask = np.zeros(self.array.shape, np.uint8)
        i, j, k = np.transpose(indices)
        rows, columns = polygon(j, i, mask.shape[1:])
        mask[k[0], rows, columns] = 1
        self.session.add_lasso_interaction(mask, include_interaction=positive, run_prediction=True)

    def scribble(self, indices: Sequence[Index], positive: bool = True, crop: bool = False) -> None:
        mask = np.zeros(self.array.shape, np.uint8)
        mask[tuple(np.transpose(indices)[::-1])] = 1
        options = {}
        if crop:
            where = np.nonzero(mask)
            options["interaction_bbox"] = [[int(axis.min()), int(axis.max()) + 1] for axis in where]
            mask = mask[tuple(slice(*ends) for ends in options["interaction_bbox"])]
        self.session.add_scribble_interaction(mask, include_interaction=positive, run_prediction=True, **options)

    def undo(self) -> bool:
        return self.session.undo()

    def next_segment(self) -> None:
        self.segments.append(self.buffer.copy())
        self.edit(None)


@pytest.fixture
def volume() -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 10, SIZE[::-1]).astype(np.int16))
    image.SetSpacing(SPACING)
    return image


def work(user: SlicerUser) -> Iterator[np.ndarray]:
    """A session at the viewer; the mask after each step."""
    user.connect()
    steps = [
        lambda: user.point((10, 12, 5)),
        lambda: user.point((4, 20, 6), positive=False),
        lambda: user.box((6, 5, 4), (15, 18, 4)),
        lambda: user.box((6, 3, 3), (6, 18, 8)),  # drawn in a sagittal slice
        lambda: user.scribble([(i, 8 + i // 4, 5) for i in range(8, 16)]),
        user.undo,
        lambda: user.scribble([(9, j, 7) for j in range(4, 12)], positive=False, crop=True),
        lambda: user.lasso([(5, 6, 3), (16, 6, 3), (16, 16, 3), (5, 16, 3)]),
        user.next_segment,
        lambda: user.point((16, 6, 2)),
        lambda: user.edit(user.segments[0]),  # back to the first segment
        lambda: user.point((10, 12, 8)),
        user.undo,
    ]
    for step in steps:
        step()
        yield user.buffer.copy()


def local_session(folder) -> SAM3DSession:
    session = SAM3DSession("cpu", torch_n_threads=1)
    session.initialize_from_trained_model_folder(folder)
    return session


def test_a_session_at_the_viewer_gives_the_masks_of_the_session(make_model, volume):
    folder = make_model("one class").folder
    expected = list(work(SlicerUser(local_session(folder), volume)))
    with server_process(folder) as server, nnInteractiveRemoteInferenceSession(server.url) as client:
        masks = list(work(SlicerUser(client, volume)))
        assert client.heartbeat() > 0
        assert {"points", "bbox2d", "lasso", "scribble"} <= {k for k, v in client.supported_interactions.items() if v}
    assert [int((mask != known).sum()) for mask, known in zip(masks, expected)] == [0] * len(expected)
    assert len({mask.tobytes() for mask in masks if mask.any()}) > 6  # most steps change the mask


def test_another_order_of_axes_would_give_other_masks(make_model, volume):
    """So equal masks tell that the order is right."""
    folder = make_model("one class").folder

    class Swapped(SlicerUser):
        def connect(self) -> None:
            self.spacing = self.spacing[::-1]
            super().connect()

    masks = [next(work(user(local_session(folder), volume))) for user in (SlicerUser, Swapped)]
    assert masks[0].any() and (masks[0] != masks[1]).any()


RADIUS = 4.0  # mm


class Balls(nn.Module):
    """Marks a ball of some millimetres around each click, if the patch has voxels of 1 mm."""

    takes_maps, num_classes = False, 2

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, embedding: Tensor, prompts: Prompts) -> Tensor:
        size = embedding.shape[2:]
        voxels = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), -1)
        logits = torch.full((1, 2, *size), -1.0)
        for point in prompts.points[0][prompts.labels[0] == 1]:
            logits[0, 1, ((voxels - point) ** 2).sum(-1) <= RADIUS**2] = 1
        return logits


@pytest.fixture
def url_of_balls(make_model) -> Iterator[str]:
    """A server whose network is `Balls`."""
    model = replace(load_model_folder(make_model("one class").folder), networks=[Balls().eval()])

    def make_session() -> SAM3DSession:
        session = SAM3DSession("cpu", torch_n_threads=1)
        session.use_model(model)
        return session

    pool = SessionPool(make_session)
    server = uvicorn.Server(uvicorn.Config(create_app(pool), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()
    pool.close()


def test_a_click_marks_a_ball_in_millimetres_around_it(url_of_balls, volume):
    """In an anisotropic volume it is a ball in space only if points, array and spacing have the same order."""
    click = SimpleNamespace(i=8, j=17, k=4)
    with nnInteractiveRemoteInferenceSession(url_of_balls) as client:
        user = SlicerUser(client, volume)
        user.connect()
        user.point((click.i, click.j, click.k))
    k, j, i = np.indices(user.buffer.shape)
    mm = [SPACING[0] * (i - click.i), SPACING[1] * (j - click.j), SPACING[2] * (k - click.k)]
    distance = np.sqrt(np.square(mm).sum(0))
    assert user.buffer[distance < RADIUS - 1].all()
    assert not user.buffer[distance > RADIUS + 1].any()
