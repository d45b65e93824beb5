"""`sam3d serve`: loads a model, times it, and answers until it is stopped."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import torch

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.prediction.capabilities import read_license
from sam3d_nnunet.prediction.embeddings import EmbeddingCache
from sam3d_nnunet.prediction.model_folder import FINAL, Fold, TrainedModel, load_model_folder
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.processes import Stopped
from sam3d_nnunet.serve.pool import PoolOptions, SessionPool

CLIENTS_WAIT = 60.0
"""Seconds after which official clients give up a prediction."""
GB = 1e9
KEY = "NN_INTERACTIVE_API_KEY"
"""Variable that may hold the key; official clients read it, too."""


@dataclass(frozen=True)
class Address:
    """Where the server listens, and who may come in.

    Attributes:
        host, port: of this machine. Port 0 is any that is free.
        key: that clients must send, if any.
        names: by which clients may call it, besides its addresses, this machine's name and `host`.
    """

    host: str = "127.0.0.1"
    port: int = 1527
    key: str | None = None
    names: Sequence[str] = ()

    def check(self) -> None:
        """Refuse a server that anybody could use.

        Raises:
            SAM3DError: others can reach it, but it has no key; or the key can't be sent.
        """
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and self.key.strip()):
            raise SAM3DError(
                "The key must consist of letters, digits and signs of ASCII, since it is sent in a header."
            )
        if self.key is None and not self.is_local:
            raise SAM3DError(
                f"With --host {self.host} others could use this server and see what is sent to it. Give it a key (set "
                f"the variable {KEY}, or --api-key), or leave --host out and reach it through an SSH tunnel."
            )

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class ServedModel:
    """Which model is served, and how.

    Attributes:
        folder: of the model.
        folds: that are averaged. None: all.
        checkpoint: file in each fold.
        label: name or number of the only class that is offered. None: all.
        device: "auto", "cpu", "cuda", ...
        precision: "auto", "bf16" or "fp32". None: as in training.
        cache_gb: budget of the embeddings of all sessions.
    """

    folder: Path
    folds: Sequence[Fold] | None = None
    checkpoint: str = FINAL
    label: str | None = None
    device: str = AUTO
    precision: str | None = None
    cache_gb: float = 4.0

    def load(self) -> tuple[TrainedModel, Callable[[], SAM3DSession]]:
        """The model, and a function that makes a session of it.

        Raises:
            SAM3DError: it can't be loaded, or has no such class.
        """
        device = usable_device(self.device)
        model = load_model_folder(self.folder, self.folds, self.checkpoint)
        if self.precision is not None:
            for network in model.networks:
                network.precision = self.precision
        label = None if self.label is None else class_number(model, self.label)
        license, embeddings = read_license(self.folder), EmbeddingCache(int(self.cache_gb * GB))

        def make_session() -> SAM3DSession:
            session = SAM3DSession(device, torch_n_threads=torch.get_num_threads())
            session.use_model(model, embeddings=embeddings, foreground=label, license=license)
            return session

        return model, make_session


def class_number(model: TrainedModel, name: str) -> int:
    """The label of a class by its name or number.

    Raises:
        SAM3DError: the model has no such class.
    """
    classes = {name: label for name, label in model.class_names.items() if label > 0}
    if name in classes:
        return classes[name]
    if name.isascii() and name.isdigit() and int(name) in classes.values():
        return int(name)
    known = ", ".join(f"{name} ({label})" for name, label in classes.items())
    raise SAM3DError(f"The model has no class {name!r} to serve. Give one of {known}.")


def serve(
    model: ServedModel,
    address: Address,
    sessions: PoolOptions,
    image_gb: float = 4.0,
    images: Sequence[Path] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serve a model until Ctrl-C.

    Args:
        model: which.
        address: where.
        sessions: how many, and when they end.
        image_gb: size of the largest image that is taken, unpacked.
        images: folders whose images the page offers.
        say: prints a line for the user.

    Raises:
        SAM3DError: the model or the address can't be used, or FastAPI, uvicorn or the client's package is missing.
    """
    address.check()
    missing = next((str(folder) for folder in images if not folder.is_dir()), None)
    if missing:
        raise SAM3DError(f"{missing} is no folder. Give --images an existing one.")
    try:
        import uvicorn

        from sam3d_nnunet.serve.app import ServerOptions, create_app
        from sam3d_nnunet.serve.limits import Door
        from sam3d_nnunet.serve.wire import check_client
    except ImportError as e:
        raise SAM3DError(
            f'A server needs further packages ({last_line(e)}). Install them: pip install "sam3d_nnunet[serve]"'
        ) from e
    check_client()
    listener = _listener(address)  # fails now, not after the model was loaded
    logging.getLogger("sam3d_nnunet").setLevel(logging.INFO)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    trained, make_session = model.load()
    pool = SessionPool(make_session, sessions)
    for line in about(pool, trained, model):
        say(line)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: object) -> None:
            # in a thread, because the pool's lock may be held by what the signal has interrupted
            threading.Thread(target=pool.close, daemon=True).start()
            super().handle_exit(sig, frame)

    door = Door(address.key, Door.names(address.host, address.names), int(image_gb * GB))
    config = uvicorn.Config(
        create_app(pool, ServerOptions(door, images)),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=1000,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=75,  # longer than clients': who closes first must not be us, with a request under way
    )
    host, port = listener.getsockname()[:2]
    say(f"Ready: http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
    stopped = None
    try:
        Server(config).run(sockets=[listener])
    except Stopped as e:
        stopped = e
        say(str(e))
    finally:
        pool.close()
    # a prediction can't be interrupted, torch can't be unloaded in the middle of one, and without one it takes seconds;
    # where a shell ignores Ctrl-C, uvicorn ends all the same, without `Stopped`
    if not pool.wait(1.0) or stopped:
        sys.stdout.flush()
        os._exit(stopped.exit_code if stopped else 0)


def about(pool: SessionPool, model: TrainedModel, served: ServedModel) -> list[str]:
    """What users should know at the start: the classes, the device, and how long a click takes."""
    session = pool.example
    lines = []
    names = {label: name for name, label in model.class_names.items()}
    classes = [names.get(label, str(label)) for label in model.click_labels if label > 0]
    if served.label is not None:
        lines.append(f"Clicks mark the class {names[class_number(model, served.label)]}.")
    elif len(classes) > 1:
        lines.append(
            f"The model has the classes {', '.join(classes)}. Clicks of clients mark {classes[0]}, and the mask holds "
            "all of them; serve another class alone with --label NAME."
        )
    pool.on_device(session.warmup)
    seconds = pool.on_device(session.time_one_window)
    lines.append(f"One window takes {seconds:.2g} s on {_device_name(session.device)}.")
    lines += slow(seconds, session.device.type)
    return lines


def slow(seconds: float, device: str) -> list[str]:
    """What to do if clicks take so long that clients give up.

    Args:
        seconds: of one window.
        device: "cpu", "cuda", ...
    """
    if seconds <= CLIENTS_WAIT / 4:
        return []
    remedies = ["--precision bf16 if your CPU computes in it"] if device == "cpu" else []
    remedies = ["a GPU (--device cuda)", *remedies] if device != "cuda" else []
    remedies += ["one fold (-f 0) if several are averaged", "a model of a smaller preset or patch"]
    advice = f"Use {', '.join(remedies[:-1])}, or {remedies[-1]}."
    if seconds > CLIENTS_WAIT:
        return [
            f"Warning: a first click takes longer than {CLIENTS_WAIT:.0f} s, when 3D Slicer, napari and other clients "
            f"give up. {advice} The window around the middle of an image is computed ahead while nobody clicks."
        ]
    return [
        f"Warning: clients give up after {CLIENTS_WAIT:.0f} s, which is enough for {int(CLIENTS_WAIT / seconds)} "
        f"window(s). A first click on a larger object takes longer. {advice}"
    ]


def _listener(address: Address):
    import socket

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=256)
    except OSError as e:
        raise SAM3DError(
            f"The server can't listen on {address.host}, port {address.port} ({e.strerror or last_line(e)}). Choose "
            "another --port, or --host."
        ) from e


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
