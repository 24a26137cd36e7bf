"""Tiny models to optimize, and an engine that computes their graphs by torch, well or badly, in a moment."""

import copy
import time
from typing import Any

import torch
from oracle import perturb
from tiny import RESNET
from torch import Tensor

from vertebra import (
    AutoBackbone,
    LinearProbeConfig,
    LinearProbeForSemanticSegmentation,
    ResNetConfig,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from vertebra.optimization.capture import Graph
from vertebra.optimization.engines.base import Engine, Run

STAGES = [1, 2, 3, 4]
SMALL = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
"""A ResNet of one block, which is captured in a moment."""


def swin(**kwargs: Any) -> Any:
    small = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4, "out_indices": [1, 2]}
    return perturb(AutoBackbone.from_config(SwinConfig(**{**small, "image_size": 32, **kwargs}))).eval()


def resnet(**kwargs: Any) -> Any:
    return perturb(AutoBackbone.from_config(ResNetConfig(**{**RESNET, "out_indices": STAGES, **kwargs}))).eval()


def upernet() -> Any:
    below = ResNetConfig(**RESNET, out_indices=STAGES)
    config = UperNetConfig(backbone_config=below, hidden_size=8, auxiliary_channels=4, num_labels=3)
    return UperNetForSemanticSegmentation(config)


def probe() -> Any:
    below = ResNetConfig(**SMALL, out_indices=[1])
    return LinearProbeForSemanticSegmentation(LinearProbeConfig(backbone_config=below, num_labels=3))


def optimized(model: Any, backend: str, **kwargs: Any) -> Any:
    return model.optimize(backend, **{"image_size": 32, "verbose": False, **kwargs})


class Plain(Engine):
    """Runs the captured graph, a while after it is asked; `whole`: other manners where it has a head; `last`: only that is off."""

    any_batch = True
    last = False
    whole: dict[str, Any] = {}

    def __init__(self, name: str, wait: float = 0.0, off: float = 0.0, fails: str = "", **facts: Any) -> None:
        self.name, self.wait, self.off, self.fails = name, wait, off, fails
        vars(self).update(facts)
        self.compiled = 0

    def compile(self, graph: Graph, dtype: torch.dtype) -> Run:
        self.compiled += 1
        module = copy.deepcopy(graph.program.module())  # engines keep the weights as they are now
        whole = any(name.endswith("classifier.weight") for name, _ in module.named_parameters())
        trouble = {"wait": self.wait, "off": self.off, "fails": self.fails, **(self.whole if whole else {})}
        if trouble["fails"]:
            raise NotImplementedError(trouble["fails"])

        def run(inputs: list[Tensor]) -> list[Tensor]:
            time.sleep(trouble["wait"])
            *others, final = module(*inputs)
            others = others if self.last else [output * (1 + trouble["off"]) for output in others]
            return [*others, final * (1 + trouble["off"])]

        return run
