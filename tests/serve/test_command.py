"""sam3d serve: what it refuses before it starts."""

import socket

import pytest
from serving import MODEL
from typer.testing import CliRunner

from sam3d_nnunet.cli.main import app
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.serve import wire


def refused(*options: str, model=MODEL) -> str:
    result = CliRunner().invoke(app, ["serve", str(model), "--device", "cpu", "--port", "0", *options])
    assert isinstance(result.exception, SAM3DError), result.output
    return str(result.exception)


def test_another_host_needs_a_key(monkeypatch):
    monkeypatch.delenv("NN_INTERACTIVE_API_KEY", raising=False)
    assert "With --host 0.0.0.0 others could use this server" in refused("--host", "0.0.0.0")


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"can't listen on 127.0.0.1, port {port}" in refused("--port", port)


def test_an_unknown_class_is_refused_with_those_there_are():
    assert "no class 'liver' to serve. Give one of core (1), rim (2)." in refused("--label", "liver")


@pytest.mark.parametrize("option", ["--images"])
def test_folders_must_exist(tmp_path, option):
    assert "absent is no folder" in refused(option, str(tmp_path / "absent"))


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "plans.json" in refused(model=tmp_path)


def test_another_version_of_the_client_is_refused(monkeypatch):
    monkeypatch.setattr(wire, "version", lambda name: "2.7.0")
    assert "is 2.7.0, but this server speaks 2.6" in refused()
