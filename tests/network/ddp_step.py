"""Two training steps of a small network, alone or as one of two processes; a module, so that a spawned one finds it."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sam3d_nnunet.network import SAM3D, Prompts, build_sam3d
from sam3d_nnunet.network.sam3d import Preset

SMALL = Preset(None, 24, 2, 2, (0, 1), 16, 8, prompt_heads=2, prompt_mlp_dim=16)


def small_net() -> SAM3D:
    """The same one everywhere."""
    torch.manual_seed(0)
    return build_sam3d(SMALL, input_channels=2, num_classes=3, patch_size=(16, 20, 12), stride=4)


def correct(logits: Tensor, prompts: Prompts) -> Prompts:
    """As in training: another click, and the first mask as previous mask."""
    maps = torch.full((len(logits), 3, *logits.shape[2:]), -1) if prompts.maps is None else prompts.maps.clone()
    maps[:, 0] = logits.argmax(dim=1)
    return Prompts(prompts.points + 1, prompts.labels, maps)


def batch(rank: int, step: int) -> tuple:
    """Rank 0 always has clicks; rank 1 first has padding only, then none at all.

    Rank 0 first also has maps, then corrects its first mask.
    """
    image = torch.randn(2, 2, 16, 20, 12, generator=torch.Generator().manual_seed(10 * step + rank))
    points = torch.tensor([[[3.0, 4, 5], [9, 2, 7]], [[1, 1, 1], [12, 15, 3]]])
    if rank == 0:
        maps = torch.arange(2 * 3 * 16 * 20 * 12).reshape(2, 3, 16, 20, 12) % 4 - 1
        labels = torch.tensor([[1, 0], [2, -1]])
        return (image, Prompts(points, labels, maps)) if step == 0 else (image, Prompts(points, labels), correct)
    return (image, Prompts(points, torch.full((2, 2), -1))) if step == 0 else (image,)


def gradients(net: nn.Module, rank: int, step: int) -> dict[str, Tensor]:
    """Of the mean squares of the logits of all levels."""
    net.zero_grad()
    sum(logits.square().mean() for logits in net(*batch(rank, step))).backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in net.named_parameters() if p.requires_grad}


def run(rank: int, folder: str) -> None:
    """Both steps in process `rank` of two; the gradients of each go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=2)
    net = DistributedDataParallel(small_net())
    torch.save([gradients(net, rank, step) for step in range(2)], Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()
