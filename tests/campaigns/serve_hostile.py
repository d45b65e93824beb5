"""Attacks on a server: damaged bodies, wrong keys, strangers, clients that leave, and more clients than sessions.

A user works meanwhile, and must get the masks of a session in this process. The server must answer everything with a
sentence, log no failure, and have the memory at the end that it had at the start.
"""

import argparse
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from hostile import Attack
from nnInteractive.inference.remote import (
    ServerAtCapacityError,
    SessionExpiredError,
    nnInteractiveRemoteInferenceSession,
)
from serving import MODEL, Comparison, Script, local_session, play, random_script, server_process

KEY = "campaign"


def main() -> None:
    """Exit code 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=MODEL, help="model folder; default: a tiny one")
    parser.add_argument("--requests", type=int, default=10_000, help="number of hostile requests")
    parser.add_argument("--crowd", type=int, default=50, help="clients that want three sessions")
    parser.add_argument("--seed", type=int, default=0, help="of all of it")
    options = parser.parse_args()
    rng, wrong = np.random.default_rng(options.seed), []
    with server_process(options.model, "--idle-timeout", "900", NN_INTERACTIVE_API_KEY=KEY) as server:
        first = Attack()
        first.run(server.url, options.requests // 10, rng, KEY)
        crowd(server.url, options.crowd, wrong)
        before, start = server.memory, time.perf_counter()
        script = random_script(np.random.default_rng(1), 40, (1, 2))
        remote: list = []
        user = threading.Thread(target=lambda: remote.extend(work_slowly(server.url, script)))
        user.start()
        attack = Attack()
        attack.run(server.url, options.requests - options.requests // 10, rng, KEY)
        user.join()
        crowd(server.url, options.crowd, wrong)
        leave_during_predictions(server.url, 10, wrong)
        after = server.memory
        print(f"{options.requests} requests; the last {time.perf_counter() - start:.0f} s of them beside a user")
        print(f"memory: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after")
        for kind in sorted({kind for kind, _ in attack.answers}):
            print(f"{kind}: { ({str(s): n for (k, s), n in sorted(attack.answers.items(), key=str) if k == kind}) }")
        if after > 1.05 * before:
            wrong.append("The memory grew by more than 5 %.")
        wrong += first.wrong + attack.wrong
        wrong += [line for line in server.lines if "Traceback" in line or "failed" in line]
        code = server.stop()
        if code not in (0, 130):  # 0 where signals were ignored when it began, as in the background of a script
            wrong.append(f"The server ended with {code}: {server.lines[-3:]}")
    comparison = Comparison()
    comparison.add(script, remote, play(local_session(options.model), script))
    print(f"{comparison.steps} steps of the user: {len(comparison.differing)} masks differ")
    print(*comparison.differing, *wrong, sep="\n")
    sys.exit(bool(comparison.differing or wrong))


def work_slowly(url: str, script: Script) -> list:
    """A user who works beside the attack."""
    with nnInteractiveRemoteInferenceSession(url, api_key=KEY, read_timeout=300) as session:
        return play(session, script)


def crowd(url: str, count: int, wrong: list[str]) -> None:
    """Many clients want a session at once; those who get none try again. Each clicks once."""
    served = []

    def client(number: int) -> None:
        rng, image = np.random.default_rng(number), np.zeros((1, 20, 18, 22), np.float32)
        image[0] = rng.normal(10, 1, image.shape[1:])
        for _ in range(3000):
            try:
                with nnInteractiveRemoteInferenceSession(url, api_key=KEY, read_timeout=300) as session:
                    session.set_image(image, {"spacing": [1, 1, 1]})
                    session.set_target_buffer(np.zeros(image.shape[1:], np.uint8))
                    session.set_do_autozoom(False)
                    session.add_point_interaction([10, 9, 11], True)
                served.append(number)
                return
            except ServerAtCapacityError:
                time.sleep(0.1)
            except Exception as e:
                wrong.append(f"client {number} of a crowd: {type(e).__name__}: {e}")
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(served) != count:
        wrong.append(f"Only {len(served)} of {count} clients of a crowd were served.")


def leave_during_predictions(url: str, count: int, wrong: list[str]) -> None:
    """Clients that give up before the answer, and use a session that they gave back."""
    for number in range(count):
        session = nnInteractiveRemoteInferenceSession(url, api_key=KEY, read_timeout=300)
        session.set_image(np.random.default_rng(number).normal(10, 1, (1, 30, 30, 30)), {"spacing": [1, 1, 1]})
        session.set_target_buffer(np.zeros((30, 30, 30), np.uint8))
        session._http.timeout = httpx.Timeout(60, read=0.02)
        try:
            session.add_point_interaction([15, 15, 15], True)
        except httpx.TimeoutException:
            pass
        token = session._http.headers["X-Lease-Token"]
        session.close()
        session._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}", "X-Lease-Token": token})
        for _ in range(100):
            try:
                session.undo()
            except SessionExpiredError:
                break
            time.sleep(0.1)
        else:
            wrong.append("A session that was given back can still be used.")


if __name__ == "__main__":
    main()
