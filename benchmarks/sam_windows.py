"""How far are the features of the lifted encoder from SAM's own, on a volume of equal slices?

With `start: sam` and without a training, only attention differs: windows of 8 x 8 tokens, shifted in every other block,
instead of SAM's windows of 14 x 14 and its four blocks with global attention. Weights are random unless a SAM file is
given.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3d_nnunet.baselines.slice_encoder import SliceEncoder
from sam3d_nnunet.network.image_encoder import STARTS
from sam3d_nnunet.network.sam3d import PRESETS, build_image_encoder
from sam3d_nnunet.network.weights import lift_sam

STRIDE = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python benchmarks/sam_windows.py --sam sam_vit_b_01ec64.pth",
    )
    parser.add_argument("--preset", choices=PRESETS, default="vit_b", help="default: vit_b")
    parser.add_argument("--tokens", type=int, default=32, help="a side; default: 32, those of a patch of 128 voxels")
    parser.add_argument("--sam", type=Path, help="file with SAM's weights; default: random weights")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    torch.manual_seed(0)
    sams = SliceEncoder(preset, 1, STRIDE, activation_checkpointing=False, tuning=None)
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.sam or Path(folder) / "random.pth"
        if arguments.sam is None:
            save_random(sams, file)
        sams.load_sam(file)
        image = smooth_image(arguments.tokens * STRIDE)
        expected = features(sams, image)
        print(f"preset {arguments.preset}, {arguments.tokens}^2 tokens, weights: {arguments.sam or 'random'}")
        print("relative difference from SAM's own features, by level:")
        for start in STARTS:
            encoder = build_image_encoder(preset, 1, STRIDE, start=start)
            lift_sam(encoder, file)
            pairs = zip(features(encoder, image), expected, strict=True)
            found = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs]
            print(f"start {start}:", *(f"{difference:.3f}" for difference in found))


def save_random(encoder: SliceEncoder, file: Path) -> None:
    """Random weights as a SAM file; position tables, which start at zero, are random too."""
    with torch.no_grad():
        for name, parameter in encoder.sam.named_parameters():
            if "rel_pos" in name or name == "pos_embed":
                parameter.normal_(std=0.1)
    torch.save({f"image_encoder.{name}": tensor for name, tensor in encoder.sam.state_dict().items()}, file)


def smooth_image(side: int) -> Tensor:
    """(side, side): random structures of several sizes, with mean 0 and deviation 1."""
    coarse = [F.interpolate(torch.randn(1, 1, n, n), (side, side), mode="bicubic") for n in (4, 16, side)]
    image = sum(coarse)[0, 0]
    return (image - image.mean()) / image.std()


@torch.no_grad()
def features(encoder: torch.nn.Module, image: Tensor) -> list[Tensor]:
    """Levels of a volume that is one token thick and holds the image in each slice."""
    return encoder.eval()(image.expand(1, 1, STRIDE, -1, -1))


if __name__ == "__main__":
    main()
