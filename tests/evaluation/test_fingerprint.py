import shutil

import torch

from sam3d_nnunet.evaluation.model import fingerprint


def test_changes_with_the_weights_and_not_with_the_file(tmp_path):
    network = torch.nn.Linear(40, 30)
    torch.save({"network_weights": network.state_dict(), "current_epoch": 3}, tmp_path / "a.pth")
    before = fingerprint(tmp_path / "a.pth")
    assert len(before) == 16
    shutil.copyfile(tmp_path / "a.pth", tmp_path / "copy.pth")
    torch.save({"network_weights": network.state_dict(), "current_epoch": 3}, tmp_path / "again.pth")
    assert fingerprint(tmp_path / "copy.pth") == fingerprint(tmp_path / "again.pth") == before
    torch.save({"network_weights": network.state_dict(), "current_epoch": 4, "device": "cpu"}, tmp_path / "again.pth")
    assert fingerprint(tmp_path / "again.pth") == before
    with torch.no_grad():
        network.weight[3, 4] += 1e-3
    torch.save({"network_weights": network.state_dict(), "current_epoch": 3}, tmp_path / "a.pth")
    assert fingerprint(tmp_path / "a.pth") != before


def test_files_of_other_kinds(tmp_path):
    for name, content in (("a", b"some"), ("b", b"some"), ("c", b"other")):
        (tmp_path / name).write_bytes(content)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")
