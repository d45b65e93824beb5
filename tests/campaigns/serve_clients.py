"""Random users of a server, through the official client: is every mask that of a session in this process?

Each user does random things with an image of their own, mistakes included; several work at the same time. Afterwards a
session here is fed the same, and all masks are compared bit for bit. Half of the users work on a server of one class.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from serving import MODEL, Comparison, local_session, play, play_at_once, random_script, server_process


def main() -> None:
    """Exit code 1 if a mask differs, or if the server's log tells of a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=MODEL, help="model folder; default: a tiny one")
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2], help="labels of the model")
    parser.add_argument("--sessions", type=int, default=20, help="number of users")
    parser.add_argument("--steps", type=int, default=50, help="interactions of each user")
    parser.add_argument("--at-once", type=int, default=3, help="users at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the first user")
    options = parser.parse_args()
    last, half = options.classes[-1], options.sessions // 2
    total, failed = Comparison(), []
    for arguments, label, classes, users in (
        ((), None, options.classes, range(half)),
        (("--label", str(last)), last, [1], range(half, options.sessions)),
    ):
        scripts = [random_script(np.random.default_rng(options.seed + u), options.steps, classes) for u in users]
        start = time.perf_counter()
        with server_process(options.model, *arguments) as server:
            remote = play_at_once(server.url, scripts, options.at_once)
        print(f"{len(scripts)} sessions in {time.perf_counter() - start:.0f} s", flush=True)
        failed += [line for line in server.lines if "Traceback" in line or "failed" in line]
        session = local_session(options.model, label)
        for script, seen in zip(tqdm(scripts, unit="session"), remote):
            session.set_do_autozoom(True)
            total.add(script, seen, play(session, script))
    print(
        f"{total.steps} steps in {options.sessions} sessions: {total.masks} masks that are not empty, {total.refused} "
        f"mistakes refused, {len(total.differing)} masks differ"
    )
    print(*total.differing, *failed, sep="\n")
    sys.exit(bool(total.differing or failed))


if __name__ == "__main__":
    main()
