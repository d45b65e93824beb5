"""Memory of `sam3d serve` while three users open large images and click at many places, beside what it may take.

The server is a process of its own on the CPU; users are official clients. Weights are random: the memory is that of a
trained network. Allowed are: what the server has at its start; for each user the image (int16), its resampled copy
(float32, made where somebody clicks) and the mask (uint8); and the budget of the embeddings (`--cache-gb`).

Examples:
    python benchmarks/serve_memory.py --figure docs/images/serve_memory.svg
    python benchmarks/serve_memory.py --side 160 --patch 64 --clicks 2
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from first_click import VOLUMES, model_folder, write_model
from tqdm import tqdm

MIB = 2**20
BYTES = 2 + 4 + 1  # of a voxel: image, resampled image, mask
COLOURS = {"start": "#999999", "images": "#4477aa", "clicks": "#117733", "end": "#999999"}


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        options = SimpleNamespace(patch=arguments.patch, unet_features=32)
        write_model(Path(folder), arguments.preset, VOLUMES["ct"], ".nii.gz", options)
        rows = measure(model_folder(Path(folder), arguments.preset), arguments)
    voxels = arguments.side**3
    start = rows[0]["mib"]
    allowed = start + arguments.users * voxels * BYTES / MIB + arguments.cache_gb * 1e9 / MIB
    peak = max(row["mib"] for row in rows)
    print(
        f"{arguments.users} users, images of {arguments.side}^3 (int16), {arguments.preset}, windows of "
        f"{arguments.patch}^3"
    )
    for row in rows:
        print(f"{row['what']:<32} {row['mib']:8.0f} MiB")
    print(f"allowed: {allowed:.0f} MiB; most: {peak:.0f} MiB; {'held' if peak <= allowed else 'EXCEEDED'}")
    print(f"most during a step, network and libraries included: {rows[-1]['peak']:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "allowed": allowed}, indent=1))
    if arguments.figure:
        draw(rows, allowed, arguments)
    sys.exit(peak > allowed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Examples") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--users", type=int, default=3, help="at the same time; default: 3")
    parser.add_argument("--side", type=int, default=512, help="of the images, in voxels of 1 mm; default: 512")
    parser.add_argument("--clicks", type=int, default=6, help="of each user, at places far from each other; default: 6")
    parser.add_argument("--preset", choices=("tiny", "vit_b"), default="tiny", help="default: tiny")
    parser.add_argument("--patch", type=int, default=128, help="side of a window; default: 128")
    parser.add_argument("--cache-gb", type=float, default=0.3, help="budget of the embeddings; default: 0.3")
    parser.add_argument("--figure", type=Path, help="draw what was measured into this file")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    return parser.parse_args()


def measure(model: Path, arguments: argparse.Namespace) -> list[dict]:
    """A row for each step: what was done, its stage, the memory after it, and the most since the start."""
    from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession

    command = [sys.executable, "-c", "from sam3d_nnunet.cli.main import main; main()", "serve", str(model)]
    command += ["--port", "0", "--device", "cpu", "--cache-gb", str(arguments.cache_gb), "--precision", "fp32"]
    command += ["--sessions", str(arguments.users)]
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"}  # where other jobs run, too
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, env={**os.environ, **waiting})
    rows: list[dict] = []

    def note(what: str, stage: str) -> None:
        rows.append(
            {"what": what, "stage": stage, "mib": memory_of(server.pid) / MIB, "peak": peak_of(server.pid) / MIB}
        )

    try:
        url = next(match[1] for match in (re.match(r"Ready: (\S+)", line) for line in server.stdout) if match)
        note("ready", "start")
        rng, side = np.random.default_rng(0), arguments.side
        users = []
        with tqdm(total=arguments.users * (1 + arguments.clicks), unit="step") as bar:
            for number in range(arguments.users):
                session = nnInteractiveRemoteInferenceSession(url, read_timeout=600)
                users.append(session)
                session.set_image(volume(rng, side), {"spacing": [1, 1, 1]})
                session.set_target_buffer(np.zeros((side,) * 3, np.uint8))
                session.set_do_autozoom(False)
                note(f"image of user {number + 1}", "images")
                bar.update()
            for click in range(arguments.clicks):
                for number, session in enumerate(users):
                    session.add_point_interaction(rng.integers(side // 8, side - side // 8, 3).tolist(), True)
                    session.reset_interactions()  # or each click would predict the windows of all clicks before
                    note(f"click {click + 1} of user {number + 1}", "clicks")
                    bar.update()
        for session in users:
            session.close()
        time.sleep(2)
        note("all users gone", "end")
    finally:
        server.kill()
        server.wait()
    return rows


def volume(rng: np.random.Generator, side: int) -> np.ndarray:
    """(1, side, side, side) int16: a body in air."""
    axis = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    distance = axis[:, None, None] + axis[None, :, None] + axis[None, None, :]
    image = np.where(distance < 0.9, np.int16(40), np.int16(-1000))
    image += rng.integers(-15, 16, (side, side, 1), dtype=np.int16)
    return image[None]


def memory_of(process: int) -> int:
    """Bytes that a process alone holds, at this moment."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private"))


def peak_of(process: int) -> int:
    """The most bytes that a process ever held, with those of files and libraries."""
    text = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", text)[1])


def draw(rows: list[dict], allowed: float, arguments: argparse.Namespace) -> None:
    """The memory after each step, and the allowed memory as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    for stage, colour in COLOURS.items():
        places = [place for place, row in enumerate(rows) if row["stage"] == stage]
        axes.bar(places, [rows[place]["mib"] / 1024 for place in places], color=colour, label=stage)
    axes.axhline(allowed / 1024, color="#cc3311", label="allowed")
    axes.set_ylabel("memory of the server (GiB)")
    axes.set_xlabel("step")
    axes.set_title(
        f"{arguments.users} users, images of {arguments.side}\u00b3 voxels, {arguments.cache_gb:g} GB of embeddings"
    )
    axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.figure)


if __name__ == "__main__":
    main()
