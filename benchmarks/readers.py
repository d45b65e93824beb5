"""Which readers, orientations and headers of label maps survive the way from image files to predictions and metrics?

Example: python benchmarks/readers.py --readers SimpleITKIO Tiff3DIO --orientations LPS SAR
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from reader_cells import CODES, EXPECTED, READERS, VARIATIONS, Cell
from tqdm import tqdm


def main() -> None:
    parser = argparse.ArgumentParser(
        description="For each of nnU-Net's readers, orientation of the training images and variation of the label "
        "maps, plan, preprocess, train (networks that learn in no time), validate, predict, average and measure. "
        "'holds' means that all is exactly as expected; everything else is printed. reader_cells.py says what that is.",
        epilog="Example: python benchmarks/readers.py --readers SimpleITKIO Tiff3DIO --orientations LPS SAR",
    )
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), help="default: all")
    parser.add_argument("--orientations", nargs="+", choices=CODES, default=list(CODES), help="default: all")
    parser.add_argument("--variations", nargs="+", choices=VARIATIONS, default=list(VARIATIONS), help="default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # on small arrays, more threads mostly wait for each other
    for variation in arguments.variations:
        print(f"{variation}: " + ", ".join(f"{check} {wanted}" for check, wanted in EXPECTED[variation].items()))
    print(f"\n| reader | orientation | {' | '.join(arguments.variations)} |")
    print("| --- " * (2 + len(arguments.variations)) + "|")
    rows = [(reader, code) for reader in arguments.readers for code in arguments.orientations]
    failed = 0
    for reader, code in tqdm(rows):
        found = [differences(reader, code, variation) for variation in arguments.variations]
        failed += sum(map(bool, found))
        tqdm.write(f"| {reader} | {code} | {' | '.join(text or 'holds' for text in found)} |")
        sys.stdout.flush()
    if failed:
        sys.exit(f"{failed} of {len(rows) * len(arguments.variations)} cells do not hold.")


def differences(reader: str, code: str, variation: str) -> str:
    """What a cell finds that it should not; empty where all is as expected."""
    with tempfile.TemporaryDirectory() as folder:
        cell = Cell(Path(folder), reader, code, variation)
        found = cell.run()
    return "; ".join(f"{check}: {found[check]}" for check, wanted in cell.expected.items() if found[check] != wanted)


if __name__ == "__main__":
    main()
