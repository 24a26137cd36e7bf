"""verify finds what is wrong: every kind of false claim, planted in a backbone that is right otherwise."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from vertebra import BackboneOutput, ResNetBackbone, ResNetConfig, Stage, SwinBackbone, SwinConfig
from vertebra.inspection.verify import verify

TINY = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


class Liar(ResNetBackbone):
    """A ResNet whose claims about its last stage are replaced by `lie`."""

    lie: dict[str, object] = {}

    def describe_stages(self) -> Iterable[Stage]:
        *others, last = super().describe_stages()
        return [*others, replace(last, **self.lie)]


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("size", [None, (224, 224), (37, 51)])
def test_true_claims_hold(device: str, size: tuple[int, int] | None) -> None:
    for backbone in (
        ResNetBackbone(ResNetConfig(**TINY)),
        SwinBackbone(SwinConfig(embed_dim=12, depths=[1, 1], num_heads=[1, 2])),
    ):
        report = verify(backbone, size, device)
        assert report, str(report)
        assert [stage.name for stage, _ in report.stages] == backbone.stage_names
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        ({"channels": 17}, r"stage2: \(17, 28, 28\) is claimed and \(16, 28, 28\) comes out"),
        ({"stride": (Fraction(16), Fraction(16))}, r"stage2: \(16, 14, 14\) is claimed and \(16, 28, 28\) comes out"),
        ({"name": "stage1"}, "stage names repeat"),
    ],
)
def test_false_claims_are_named(lie: dict[str, object], text: str) -> None:
    backbone = type("Liar", (Liar,), {"lie": lie})(ResNetConfig(**TINY, out_indices=[0]))
    report = verify(backbone)
    assert not report
    with pytest.raises(RuntimeError, match=text):
        report.raise_if_failed()


def test_a_wrong_stride_with_the_right_shape_is_found() -> None:
    class Blind(Liar):
        lie = {"stride": (Fraction(9), Fraction(9))}

        def map_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
            return [(-(-height // 4), -(-width // 4))] * 2 + [(-(-height // 8), -(-width // 8))]

    assert "stage2: stride 9 is claimed and 224x224 gives 28x28 cells" in verify(Blind(ResNetConfig(**TINY))).failures


def test_an_idle_parameter_is_found() -> None:
    class Idle(ResNetBackbone):
        def __init__(self, config: ResNetConfig) -> None:
            super().__init__(config)
            self.mask_token = nn.Parameter(torch.zeros(1))

    report = verify(Idle(ResNetConfig(**TINY)))
    assert any("1 parameters without a gradient: mask_token" in failure for failure in report.failures)


def test_names_that_depend_on_the_selection_are_found() -> None:
    class Renamed(ResNetBackbone):
        def __init__(self, config: ResNetConfig) -> None:
            super().__init__(config)
            self.register_buffer(f"table_{self.last_stage}", torch.zeros(1))

    assert any(
        "table_0 (1,) is not a tensor of the whole" in failure
        for failure in verify(Renamed(ResNetConfig(**TINY))).failures
    )


MANY = {**TINY, "hidden_sizes": [8] * 9, "depths": [1] * 9}


@pytest.mark.parametrize(("device", "selected"), [("meta", [1, 4, 8]), ("cpu", [1, 2, 3, 4, 6, 7, 8])])
def test_of_many_stages_some_are_selected_alone(device: str, selected: list[int]) -> None:
    """Where nothing is computed; the first, a middle and the last stage have twins pruned to them."""
    runs: list[list[int]] = []

    class Counted(ResNetBackbone):
        def forward_features(self, *args: Any, **kwargs: Any) -> BackboneOutput:
            runs.append(list(self.out_indices))
            return super().forward_features(*args, **kwargs)

    assert verify(Counted(ResNetConfig(**MANY)), device=device)
    assert runs == [list(range(10)), [0], [5], [9], *([index] for index in selected), [0, 9]]


@pytest.mark.parametrize(("device", "wrong"), [("meta", 1), ("meta", 4), ("meta", 8), ("cpu", 3)])
def test_a_map_that_depends_on_the_selection_is_found(device: str, wrong: int) -> None:
    class Cropped(ResNetBackbone):
        def forward_features(self, *args: Any, **kwargs: Any) -> BackboneOutput:
            output = super().forward_features(*args, **kwargs)
            if list(self.out_indices) == [wrong]:
                output.feature_maps = tuple(level[:, 1:] for level in output.feature_maps)
            return output

    report = verify(Cropped(ResNetConfig(**MANY)), device=device)
    assert len(report.failures) == 1
    assert f"['stage{wrong}'] selected: [(" in report.failures[0]


def test_the_backbone_itself_is_left_alone() -> None:
    backbone = ResNetBackbone(ResNetConfig(**TINY)).train()
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    verify(backbone, device="cpu")
    assert backbone.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
