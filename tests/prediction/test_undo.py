import numpy as np
import pytest
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.target_buffer import SavedPart, TargetBuffer

PLACE = (slice(1, 4), slice(0, 5), slice(2, 3))


def buffers() -> list:
    values = np.random.default_rng(0).integers(0, 9, (5, 6, 7))
    arrays = [values.astype(kind) for kind in (np.uint8, np.int16, np.float32, bool, ">i4")]
    strided = np.zeros((7, 6, 10), np.uint8).transpose(2, 1, 0)[::2]
    tensors = [torch.from_numpy(values.astype(np.uint8)), torch.zeros((7, 6, 5)).permute(2, 1, 0).requires_grad_()]
    return [*arrays, strided, *tensors]


@pytest.mark.parametrize("number", range(len(buffers())))
def test_a_part_comes_back_bit_for_bit(number):
    buffer = buffers()[number]
    target = TargetBuffer(buffer, (5, 6, 7))
    before = target[(...,)].copy()
    saved = SavedPart(target, PLACE)
    target[PLACE] = 1 + target[PLACE]
    assert (target[(...,)] != before).any() or before.dtype == bool
    changed = target[(...,)].copy()
    assert target.buffer is buffer  # in place
    saved.put_back()
    assert (target[(...,)] == before).all()
    outside = np.ones(before.shape, bool)
    outside[PLACE] = False
    assert (changed[outside] == before[outside]).all()
    target.clear()
    assert not target[(...,)].any()


def test_what_is_constant_takes_no_memory():
    assert SavedPart(np.full((50, 50, 50), 3, np.uint8), (slice(None),)).data is None


def test_read_only_buffers_are_refused():
    values = np.zeros((3, 3, 3), np.uint8)
    values.flags.writeable = False
    with pytest.raises(SAM3DError, match="read-only"):
        TargetBuffer(values, (3, 3, 3))
