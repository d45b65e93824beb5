"""Boxes that users draw, against a statement of what nnInteractive makes of them."""

import numpy as np
import pytest
from balls import SHAPE
from hypothesis import assume, given
from hypothesis import strategies as st

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.session_arguments import drawn_box

ENDS = st.floats(-6, 50) | st.integers(-6, 50)
AXES = st.lists(st.tuples(ENDS, ENDS), min_size=3, max_size=3)


def stated(low: float, high: float, voxels: int) -> range:
    """Voxels along one axis: between the rounded ends, without those outside. If none is left, the first voxel of the
    image if the box begins there, else the one below."""
    low, high = max(0, round(low)), min(voxels, round(high))
    if low >= high:
        low, high = (0, 1) if low == 0 else (low - 1, high)
    return range(low, high)


@given(AXES)
def test_boxes_are_those_of_nninteractive(ends):
    ends = [sorted(pair) for pair in ends]
    assume(all(round(high) >= 0 and round(low) <= n for (low, high), n in zip(ends, SHAPE)))
    box = drawn_box(ends, SHAPE)
    assert [range(*pair) for pair in box.as_lists()] == [stated(*pair, n) for pair, n in zip(ends, SHAPE)]


@given(AXES)
def test_boxes_have_voxels_of_the_image_or_are_refused(ends):
    try:
        box = drawn_box(ends, SHAPE)
    except SAM3DError as e:
        assert "outside the image" in str(e)
        ends = np.rint(np.sort(ends, axis=1))
        assert (ends[:, 1] < 0).any() or (ends[:, 0] > SHAPE).any()
        return
    for low, high, n in zip(box.start, box.stop, SHAPE):
        assert 0 <= low < high <= n


@given(AXES)
def test_the_order_of_the_ends_does_not_matter(ends):
    def found(given):
        try:
            return drawn_box(given, SHAPE)
        except SAM3DError:
            return None

    assert found(ends) == found([pair[::-1] for pair in ends])


def test_flat_and_reversed_boxes_of_a_session(with_balls):
    session, network, target = with_balls(takes_maps=True)
    masks = []
    for ends in (
        [[8, 9], [5, 15], [6, 16]],
        [[9, 9], [5, 15], [6, 16]],
        [[8.6, 9.2], [5, 15], [6, 16]],
        [[9, 8], [15, 5], [16, 6]],
    ):
        session.add_bbox_interaction(ends, True)
        masks.append(target.copy())
        session.reset_interactions()
    assert masks[0].any() and all((mask == masks[0]).all() for mask in masks)


@pytest.mark.parametrize("ends", [None, 3, "box", [[1, 2], [3, 4]], [[1, 2], [3, 4], [5, np.nan]], [[0, 1e30]] * 3])
def test_what_is_no_box(ends):
    with pytest.raises(SAM3DError, match=r"needs \[\[x1"):
        drawn_box(ends, SHAPE)
