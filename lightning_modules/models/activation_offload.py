"""What a forward pass leaves for its backward pass, kept in main memory meanwhile."""

import contextlib

import torch


def kept_in_main_memory(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Let what is saved for the backward pass inside be moved to main memory, and back when it is wanted.

    Layers whose activations are checkpointed save their input alone.

    Args:
        device: Where it is computed; on the CPU everything stays where it is.
    """
    return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")
