"""Predictions build the same networks as trainings."""

import pytest

from sam3d_nnunet.nnunet.names import TRAINERS, find_trainer, takes_prompts
from sam3d_nnunet.planning.networks import BUILDERS


@pytest.mark.parametrize("name", TRAINERS)
def test_a_prediction_builds_the_network_of_the_trainer(name):
    """With the trainer's own function, for all of ours that take prompts and for no others."""
    trainer = find_trainer(name)
    assert takes_prompts(trainer) == (name in BUILDERS)
    if name in BUILDERS:
        assert trainer.build_network_architecture is BUILDERS[name]
