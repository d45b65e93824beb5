"""Names that lead out of folders or break files, through the commands: each is refused, and no other file changes.

The names stand in splits_final.json, in dataset.json, in recipes, in `--name` and in the files of results. Some lead to
files outside the folders for output. Afterwards these must be as they were, and nothing may be written for a name that
was refused.
"""

import argparse
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from unsafe_names import CHOSEN, Names, fixed_names, random_names

from sam3d_nnunet.file_names import file_name_fault


def main() -> None:
    """Exit code 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=200, help="number of random names beside the fixed ones")
    parser.add_argument("--seed", type=int, default=0, help="of the random names")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="names_") as root:
        names = Names(Path(root))
        os.environ.update(names.environment())
        candidates = (name for name in random_names(np.random.default_rng(options.seed)) if file_name_fault(name))
        for name in tqdm([*fixed_names(names.root), *islice(candidates, options.random)], unit="name"):
            for put in names.places().values():
                put(name)
        for name in CHOSEN:
            names.in_recipe(name)
            names.in_option(name)
    print(f"{sum(names.answers.values())} commands in {time.perf_counter() - start:.0f} s")
    for (place, code), count in sorted(names.answers.items()):
        print(f"{place}: {count} with exit code {code}")
    print(*names.wrong, sep="\n")
    sys.exit(bool(names.wrong))


if __name__ == "__main__":
    main()
