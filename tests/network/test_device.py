import pytest
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.device import AUTO, computes_in_bf16, has_bf16_arithmetic, usable_device


@pytest.mark.parametrize("has_gpu, expected", [(True, "cuda"), (False, "cpu")])
def test_auto_is_the_gpu_if_there_is_one(monkeypatch, has_gpu, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert usable_device(AUTO) == torch.device(expected)


def test_a_named_device_must_be_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for name in ("cuda", "cuda:1", torch.device("cuda"), "mps", "abacus"):
        with pytest.raises(SAM3DError, match=f"The device {name} can't be used here; choose one of cpu"):
            usable_device(name)
    assert usable_device("cpu") == torch.device("cpu")


def test_the_question_for_bfloat16_does_not_break_a_compiled_graph():
    """It asks the driver, which can't be compiled: without its mark this raises an error."""

    def widths(image: torch.Tensor) -> torch.Tensor:
        return image + (16 if computes_in_bf16("auto", image.device, depth=8) else 32)

    compiled = torch.compile(widths, backend="eager", fullgraph=True)
    expected = 16 if has_bf16_arithmetic(torch.device("cpu")) else 32
    assert compiled(torch.zeros(1)) == expected
