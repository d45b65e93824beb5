"""How fast does a network train on a CPU beside busy loops, if threads spin while they wait and if they sleep?

    python benchmarks/waiting_threads.py
    python benchmarks/waiting_threads.py --loops 0 --seconds 30

Trains the network `tiny` on random patches of 32 x 32 x 32 with a thread for each core, in a process for each value of
OMP_WAIT_POLICY. The busy loops stand for the jobs of others. Prints the training steps in a fixed time, and the seconds
of processor time that a step took.
"""

import argparse
import os
import subprocess
import sys
import time

VARIABLE = "OMP_WAIT_POLICY"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Training steps on a CPU beside busy loops, by OMP_WAIT_POLICY.",
        epilog="Example: python benchmarks/waiting_threads.py",
    )
    parser.add_argument("--loops", type=int, default=os.cpu_count(), help="busy loops; default: one for each core")
    parser.add_argument("--seconds", type=float, default=20, help="for each policy")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        _train(arguments.seconds)
        return
    print(f"{os.cpu_count()} cores, {arguments.loops} busy loops, load average at the start {os.getloadavg()[0]:.1f}")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.loops)]
    try:
        for policy in (None, "PASSIVE"):
            environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | (
                {VARIABLE: policy} if policy else {}
            )
            print(f"{VARIABLE} {policy or 'not set'}: ", end="", flush=True)
            command = [sys.executable, __file__, "--train", "--seconds", str(arguments.seconds)]
            subprocess.run(command, env=environment, check=True)
    finally:
        for process in busy:
            process.kill()


def _train(seconds: float) -> None:
    import torch

    from sam3d_nnunet.network.sam3d import SAM3D
    from sam3d_nnunet.training.trainer import LevelsLoss

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    network = SAM3D.from_preset("tiny", 1, 2, (32, 32, 32), 4)
    optimizer = torch.optim.AdamW(network.parameters())
    image, target = torch.randn(2, 1, 32, 32, 32), torch.zeros(2, 2, 32, 32, 32)
    loss = LevelsLoss(torch.nn.MSELoss(), network.level_weights)

    def step() -> None:
        loss(network(image), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    steps, start, used = 0, time.monotonic(), time.process_time()
    while time.monotonic() - start < seconds:
        step()
        steps += 1
    wall, used = time.monotonic() - start, time.process_time() - used
    print(f"{steps} steps in {wall:.0f} s, {wall / steps:.2f} s a step, {used / steps:.2f} s of processor time")


if __name__ == "__main__":
    main()
