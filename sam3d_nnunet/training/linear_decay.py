"""The learning rate of the paper."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class LinearDecay(LRScheduler):
    """From the initial learning rate straight to a share of it, set by epoch as nnU-Net's trainer asks for it."""

    def __init__(self, optimizer: Optimizer, initial_lr: float, final_share: float, num_epochs: int) -> None:
        """
        Args:
            optimizer: whose rates are set.
            initial_lr: rate of the first epoch.
            final_share: share of it that is left after the last epoch.
            num_epochs: length of the training.
        """
        self.initial_lr = initial_lr
        self.final_share = final_share
        self.num_epochs = num_epochs
        super().__init__(optimizer)

    def step(self, epoch: int = 0) -> None:
        """Set the rate of an epoch (0 is the first)."""
        rate = self.initial_lr * (1 - (1 - self.final_share) * epoch / self.num_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
