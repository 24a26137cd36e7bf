"""What the parity tests share: models moved off their initial values, and comparisons with a stated tolerance."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def perturb(model: Model, seed: int = 0, scale: float = 0.1) -> Model:
    """Add noise to every parameter and statistic, so that nothing keeps a value at which it could be lost unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype), alpha=scale)
    return model


def close(actual: Any, expected: Any, tol: float = 1e-5, name: str = "output") -> None:
    """Assert equal shapes and max|actual - expected| <= tol * max|expected|, in every tensor of nested tuples."""
    if not isinstance(expected, Tensor):
        assert isinstance(actual, Sequence), f"{name} is a {type(actual).__name__}, expected {len(expected)} tensors"
        assert len(actual) == len(expected), f"{name} has {len(actual)} entries, expected {len(expected)}"
        for index, pair in enumerate(zip(actual, expected, strict=True)):
            close(*pair, tol=tol, name=f"{name}[{index}]")
        return
    assert isinstance(actual, Tensor), f"{name} is a {type(actual).__name__}, expected a tensor"
    assert actual.shape == expected.shape, f"{name} has shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{name} is {actual.dtype}, expected {expected.dtype}"
    assert torch.isfinite(expected).all(), f"{name}: the expected values are not all finite"
    if expected.numel():
        error = (actual.detach() - expected.detach()).abs().max().item()
        scale = expected.detach().abs().max().item()
        assert error <= tol * scale, f"{name} is off by {error:.3g}; allowed are {tol:g} of {scale:.3g}"


def same(actual: Any, expected: Any, name: str = "output") -> None:
    """Assert equality to the last bit."""
    close(actual, expected, tol=0.0, name=name)


def save_with_transformers(model: Any, folder: Path, seed: int = 0, scale: float = 0.1, **kwargs: Any) -> Any:
    """Perturb a model of transformers, save it, and return it in evaluation mode with attentions that can be read."""
    if hasattr(model, "set_attn_implementation") and model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    perturb(model, seed, scale).eval().save_pretrained(folder, **kwargs)
    return model


def saved_keys(folder: Path) -> set[str]:
    """Names of all tensors in the safetensors files of a folder."""
    return {name for path in folder.glob("*.safetensors") for name in load_file(path)}


def gradients_as_saved(model: Any, folder: Path) -> dict[str, Tensor]:
    """The gradients of a model of transformers under the names that it gives its parameters on disk."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for (_, there), (_, here) in zip(twin.named_parameters(), model.named_parameters(), strict=True):
            there.copy_(torch.full_like(here, torch.nan) if here.grad is None else here.grad)
    twin.save_pretrained(folder)
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
