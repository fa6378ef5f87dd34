"""Random streams for a batch, one a sample, as the training loop gives them to a generator's loss."""

from LNSynthLib.runtime.seeds import torch_rng


def streams(samples, seed=0):
    return [torch_rng(seed, number) for number in range(samples)]
