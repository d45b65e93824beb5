"""Files that can't be read as checkpoints: one clear message, and nothing in them is ever run."""

import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sam_files import save_sam, small_encoder, small_sam
from torch import nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.checkpoint_files import read_checkpoint
from sam3d_nnunet.network.weights import lift_sam


def refused(path: Path) -> str:
    """The message, which always names the file and never repeats torch's advice to load without safety."""
    with pytest.raises(SAM3DError) as e:
        read_checkpoint(path)
    assert str(path) in str(e.value) and "weights_only" not in str(e.value)
    return str(e.value)


class Evil:
    """Runs a command when unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle"])
def test_no_foreign_object_is_unpickled(how, tmp_path):
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"image_encoder.pos_embed": torch.zeros(3), "x": Evil(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"x": Evil(marker)}))
        pickle.loads(path.read_bytes())
        assert marker.exists()  # so it would
        marker.unlink()
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    message = refused(path)
    with pytest.raises(SAM3DError):
        lift_sam(small_encoder(), path)
    assert not marker.exists()
    if how != "pickle":
        assert f"holds {os.system.__module__}.system, which is not loaded" in message


def test_message_says_what_the_file_is(tmp_path):
    def message(content) -> str:
        path = tmp_path / "file.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return refused(path)

    assert "it is empty" in message(b"")
    assert "a text file beginning with 'hello world'" in message(b"hello world\nsecond line")
    assert "<!DOCTYPE html>" in message(b"<!DOCTYPE html>\n<html><body>404</body></html>")
    assert "holds a Tensor, not a dictionary" in message(torch.zeros(3))
    assert "holds a list" in message([{"a": torch.zeros(3)}])
    assert "holds torch.nn.modules.linear.Linear" in message({"model": nn.Linear(2, 2)})
    assert "_reconstruct, which is not loaded" in message({"array": np.zeros(3)})
    assert "file of torch.save" in message(bytes(range(255, 0, -1)))
    assert "is a folder" in refused(tmp_path)
    assert "There is no file" in refused(tmp_path / "nowhere.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_archives_of_other_kinds(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pth")
    assert "TorchScript" in refused(tmp_path / "script.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as z:
        z.writestr("a.txt", "text")
    assert "file of torch.save" in refused(tmp_path / "zip.pth")


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_files(part, new_format, tmp_path):
    path = tmp_path / "sam.pth"
    torch.save(save_sam(small_sam(), path), path, _use_new_zipfile_serialization=new_format)
    read_checkpoint(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert "cut short" in refused(path)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=64) | st.text(alphabet="()]}.{sctabuqQKMNX\x80\x02", max_size=30).map(str.encode))
def test_any_bytes_end_in_our_error(tmp_path, content):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about pickle protocols that don't exist
        try:
            assert isinstance(read_checkpoint(path), dict)  # a few bytes may be an empty dictionary
        except SAM3DError as e:
            assert str(path) in str(e)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64])
def test_numpy_numbers_are_read_here_and_refused_elsewhere(kind, tmp_path):
    torch.save({"best_val_loss": kind(3)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth") == {"best_val_loss": 3}
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)


def test_numbers_of_numpy_1_are_read(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"best_val_loss": np.float32(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"cnumpy.core.multiarray\nscalar" in path.read_bytes()
    assert read_checkpoint(path) == {"best_val_loss": 3}
