"""Against transformers 5, live: maps, states, attentions, losses, gradients and files of Swin and ResNet.

The oracle computes the expected values from the files it wrote. fp32 results agree to 1e-5 of the largest value,
float64 gradients to 1e-9.
"""

import copy
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from oracle import close, gradients_as_saved, save_with_transformers, saved_keys

from vertebra.backbones import resnet, swin
from vertebra.model import PreTrainedModel

SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [2, 1, 2], "num_heads": [1, 2, 4], "window_size": 3, "image_size": 32}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1]}
OTHER = ((33, 70), (40, 60))


@dataclass(frozen=True)
class Case:
    """One shape of one family: the classes are looked up by name in both libraries."""

    name: str
    family: str
    kwargs: dict[str, Any]
    sizes: tuple[tuple[int, int], ...] = ((48, 48), (37, 51))
    scale: float = 0.1
    first: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def theirs(self, kind: str, **kwargs: Any) -> Any:
        config = getattr(transformers, f"{self.family}Config")(**{**self.kwargs, **self.extra, **kwargs})
        return getattr(transformers, f"{self.family}{kind}")(config)

    def ours(self, kind: str) -> type[PreTrainedModel]:
        return getattr(resnet if self.family == "ResNet" else swin, f"{self.family}{kind}")

    @property
    def stages(self) -> range:
        return range(self.first, len(self.kwargs.get("depths", "four")) + 1)


TINY = (
    Case("swin", "Swin", SWIN),
    # with position embeddings transformers' backbone runs at the trained size alone
    Case(
        "swin-positions",
        "Swin",
        SWIN,
        ((36, 52),),
        extra={"use_absolute_embeddings": True, "qkv_bias": False, "image_size": [36, 52]},
    ),
    Case("swin-oblong", "Swin", SWIN, extra={"patch_size": [2, 3], "window_size": 4, "layer_norm_eps": 1e-2}),
    Case("resnet-bottleneck", "ResNet", RESNET),
    Case("resnet-v1", "ResNet", RESNET, extra={"downsample_in_bottleneck": True, "downsample_in_first_stage": True}),
    Case("resnet-basic", "ResNet", RESNET, extra={"layer_type": "basic", "hidden_act": "silu"}),
    Case("maskformer-swin", "MaskFormerSwin", SWIN, first=1),
)
REAL = (
    Case("swin-tiny", "Swin", {}, ((64, 64), (37, 51)), 0.02),
    Case("swin-small", "Swin", {"depths": [2, 2, 18, 2]}, ((64, 64), (37, 51)), 0.02),
    Case(
        "swin-base", "Swin", {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}, ((75, 91),), 0.02
    ),
    Case(
        "resnet-18",
        "ResNet",
        {"hidden_sizes": [64, 128, 256, 512], "depths": [2] * 4, "layer_type": "basic"},
        scale=0.02,
    ),
    Case("resnet-50", "ResNet", {}, ((64, 64), (37, 51)), 0.02),
    Case("resnet-101", "ResNet", {"depths": [3, 4, 23, 3]}, ((75, 91),), 0.02),
)
HEADED = [case for case in TINY if case.family != "MaskFormerSwin"]


def by_name(cases: Any) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def pixels(size: tuple[int, int], batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size)


def asked(case: Case) -> dict[str, bool]:
    return {"output_hidden_states": True} | ({} if case.family == "ResNet" else {"output_attentions": True})


def compare_backbones(case: Case, theirs: Any, ours: Any, x: torch.Tensor, stages: int | None = None) -> None:
    """Compare maps, hidden states and attentions, the last two on the first `stages` (all when None)."""
    with torch.no_grad():
        expected, actual = theirs(x, **asked(case)), ours(x, **asked(case))
    close(actual.feature_maps, expected.feature_maps, name="feature_maps")
    if case.family == "MaskFormerSwin":
        return  # transformers nests hidden states by block and returns them under the name of attentions
    count = len(expected.hidden_states) if stages is None else stages
    close(actual.hidden_states, expected.hidden_states[:count], name="hidden_states")
    if case.family == "Swin":
        close(actual.attentions, expected.attentions[: count - 1], name="attentions")


@by_name(TINY)
def test_every_selection_of_stages(case: Case, tmp_path: Path) -> None:
    selections = [list(c) for size in range(1, len(case.stages) + 1) for c in combinations(case.stages, size)]
    x = pixels(case.sizes[-1])
    everything = save_with_transformers(case.theirs("Backbone", out_indices=list(case.stages)), tmp_path)
    for selection in selections:
        theirs = type(everything).from_pretrained(tmp_path, out_indices=selection, attn_implementation="eager")
        ours, info = case.ours("Backbone").from_pretrained(tmp_path, out_indices=selection, output_loading_info=True)
        assert info["missing_keys"] == info["mismatched_keys"] == []
        assert set(info["unexpected_keys"]) == set(info["explained"])
        assert ours.out_features == theirs.out_features
        assert ours.channels == theirs.channels
        compare_backbones(case, theirs, ours, x, stages=max(selection) + 1)


@by_name(TINY)
def test_unpruned_backbone_in_full(case: Case, tmp_path: Path) -> None:
    first = case.first + 1
    theirs = save_with_transformers(case.theirs("Backbone", out_indices=[first]), tmp_path)
    ours = case.ours("Backbone").from_pretrained(tmp_path, prune=False)
    for size in case.sizes if case.name == "swin-positions" else (*case.sizes, *OTHER):
        compare_backbones(case, theirs, ours, pixels(size))


@by_name(REAL)
def test_real_shapes(case: Case, tmp_path: Path) -> None:
    selection = [1, 2, 3, 4]
    theirs = save_with_transformers(case.theirs("Backbone", out_indices=selection), tmp_path, scale=case.scale)
    ours = case.ours("Backbone").from_pretrained(tmp_path)
    for size in case.sizes:
        compare_backbones(case, theirs, ours, pixels(size, batch=1))


@by_name(TINY)
def test_gradients_in_float64(case: Case, tmp_path: Path) -> None:
    selection = list(case.stages)[1:]
    theirs = save_with_transformers(case.theirs("Backbone", out_indices=selection).double(), tmp_path / "weights")
    if case.family != "ResNet":
        theirs.set_attn_implementation("sdpa")  # the eager one computes its softmax in float32
    ours = case.ours("Backbone").from_pretrained(tmp_path / "weights")
    assert ours.dtype == torch.float64
    inputs = {}
    weights = None
    for model in (theirs, ours):
        x = torch.randn(
            2, 3, *case.sizes[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        ).requires_grad_()
        maps = model(x).feature_maps
        weights = weights or [torch.randn_like(m) for m in maps]
        sum((m * w).sum() for m, w in zip(maps, weights, strict=True)).backward()
        inputs[model] = x.grad
    close(inputs[ours], inputs[theirs], tol=1e-9, name="gradient of the input")
    expected = gradients_as_saved(theirs, tmp_path / "gradients")
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        spelled = name if name in expected else f"{ours.base_model_prefix}.{name}"
        if name.endswith("key.bias"):  # the softmax does not see it: both are zero but for rounding
            assert parameter.grad.abs().max() < 1e-12
            continue
        close(parameter.grad, expected[spelled], tol=1e-9, name=f"gradient of {name}")


@by_name(TINY)
def test_training_mode_of_norms(case: Case, tmp_path: Path) -> None:
    # batch statistics are computed and stored alike; random layers are off by configuration
    off = {} if case.family == "ResNet" else {"drop_path_rate": 0.0}
    theirs = save_with_transformers(case.theirs("Backbone", **off), tmp_path / "before").train()
    ours = case.ours("Backbone").from_pretrained(tmp_path / "before").train()
    x = pixels(case.sizes[0], batch=3)
    close(ours(x).feature_maps, theirs(x).feature_maps)
    theirs.save_pretrained(tmp_path / "after")
    again = case.ours("Backbone").from_pretrained(tmp_path / "after")
    for name, buffer in ours.named_buffers():
        close(buffer, again.get_buffer(name), name=name)


@pytest.mark.parametrize("depths", [[2, 1, 2], [1, 3, 1]])
def test_drop_path_grows_as_in_transformers(depths: list[int]) -> None:
    kwargs = {**SWIN, "depths": depths, "drop_path_rate": 0.4}
    theirs = transformers.SwinModel(transformers.SwinConfig(**kwargs))
    ours = swin.SwinModel(swin.SwinConfig(**kwargs))
    rates = [
        [getattr(module, "drop_prob", 0.0) for name, module in model.named_modules() if name.endswith("drop_path")]
        for model in (ours, theirs)
    ]
    assert len(rates[0]) == sum(depths)
    assert rates[0] == pytest.approx(rates[1], abs=1e-7)


@by_name(HEADED)
def test_model_without_head(case: Case, tmp_path: Path) -> None:
    theirs = save_with_transformers(case.theirs("Model"), tmp_path)
    ours, info = case.ours("Model").from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == info["unexpected_keys"] == []
    for size in case.sizes if case.name == "swin-positions" else (*case.sizes, *OTHER):
        x = pixels(size)
        fresh = copy.deepcopy(theirs)  # a small image changes the windows of transformers' model for all later ones
        with torch.no_grad():
            expected, actual = fresh(x, **asked(case)), ours(x, **asked(case))
        assert list(actual) == [name for name in expected if expected[name] is not None]
        for name in actual:
            close(actual[name], expected[name], name=f"{name} at {size}")
        with torch.no_grad():
            close(ours(x, return_dict=False), fresh(x, return_dict=False))


def test_position_embeddings_are_resized(tmp_path: Path) -> None:
    case = Case("swin", "Swin", SWIN, extra={"use_absolute_embeddings": True})
    theirs = save_with_transformers(case.theirs("Model"), tmp_path)
    ours = case.ours("Model").from_pretrained(tmp_path)
    for size in ((48, 48), (36, 52), (64, 56)):  # whole patches: others transformers cannot resize to
        x = pixels(size)
        with torch.no_grad():
            expected = copy.deepcopy(theirs)(x, interpolate_pos_encoding=True)
            close(ours(x).to_tuple(), expected.to_tuple(), name=str(size))


@by_name(HEADED)
@pytest.mark.parametrize(
    ("problem", "labels", "count"),
    [
        ("single_label_classification", torch.tensor([2, 0]), 3),
        ("multi_label_classification", torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        ("regression", torch.tensor([0.3, -1.2]), 1),
        ("regression", torch.tensor([[0.3, -1.2, 4.0], [0.1, 0.2, 0.3]]), 3),
        (None, torch.tensor([2, 0]), 3),
        (None, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        (None, torch.tensor([0.3, -1.2]), 1),
    ],
)
def test_classifier_and_its_loss(
    case: Case, problem: str | None, labels: torch.Tensor, count: int, tmp_path: Path
) -> None:
    theirs = case.theirs("ForImageClassification", num_labels=count, problem_type=problem)
    theirs = save_with_transformers(theirs, tmp_path / "theirs")
    ours, info = case.ours("ForImageClassification").from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert info["missing_keys"] == info["unexpected_keys"] == []
    x = pixels(case.sizes[0])
    expected, actual = theirs(x, labels=labels, **asked(case)), ours(x, labels=labels, **asked(case))
    assert list(actual) == [name for name in expected if expected[name] is not None]
    for name in actual:
        close(actual[name], expected[name], name=name)
    expected.loss.backward()
    actual.loss.backward()
    head = "classifier.bias" if case.family == "Swin" else "classifier.1.bias"
    close(ours.get_parameter(head).grad, theirs.get_parameter(head).grad, name=head)


@by_name(TINY)
def test_transformers_reads_what_vertebra_saved(case: Case, tmp_path: Path) -> None:
    selection = [case.first + 1]
    theirs = save_with_transformers(case.theirs("Backbone", out_indices=selection), tmp_path / "theirs")
    x = pixels(case.sizes[-1])
    with torch.no_grad():
        expected = theirs(x).feature_maps
    for prune in (True, False):
        folder = tmp_path / f"ours-{prune}"
        ours = case.ours("Backbone").from_pretrained(tmp_path / "theirs", prune=prune)
        ours.save_pretrained(folder)
        back, info = type(theirs).from_pretrained(folder, output_loading_info=True)
        unselected = () if prune else ("hidden_states_norms.",)  # transformers makes norms for selected stages alone
        assert [name for name in info["unexpected_keys"] if not name.startswith(unselected)] == []
        assert set(info["mismatched_keys"]) == set()
        written = saved_keys(folder)
        assert {name for name in written if not name.startswith(unselected)} <= saved_keys(tmp_path / "theirs")
        allowed = (
            "layernorm.weight",
            "layernorm.bias",
            "relative_position_index",
        )  # that no map depends on, or computed
        missing = {name for name in info["missing_keys"] if not name.endswith(allowed) or "blocks" in name}
        missing = {name for name in missing if not name.endswith("relative_position_index")}
        if not prune:
            assert missing == set()
        last = case.kwargs["depths"][: max(selection)]
        for name in missing:  # pruned: stages after the last one selected, their merging, and norms not selected
            stage = [int(part) for part in name.split(".") if part.isdigit()][:1]
            assert "hidden_states_norms" in name or "downsample" in name or stage[0] >= len(last), name
        with torch.no_grad():
            close(back.eval()(x).feature_maps, expected, name=f"prune={prune}")


@by_name(HEADED)
@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
def test_transformers_reads_saved_models(case: Case, kind: str, tmp_path: Path) -> None:
    theirs = save_with_transformers(case.theirs(kind), tmp_path / "theirs")
    case.ours(kind).from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path / "theirs")
    back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {name: set(keys) for name, keys in info.items() if keys} == {}
    x = pixels(case.sizes[0])
    with torch.no_grad():
        close(back.eval()(x).to_tuple(), theirs(x).to_tuple())


@by_name(HEADED)
@pytest.mark.parametrize("source", ["Model", "ForImageClassification"])
@pytest.mark.parametrize("target", ["Backbone", "Model", "ForImageClassification"])
def test_a_file_of_one_class_in_another(case: Case, source: str, target: str, tmp_path: Path) -> None:
    """The parts both classes have come through; only head, final norm and map norms are missing or left over."""
    theirs = save_with_transformers(case.theirs(source), tmp_path)
    ours, info = case.ours(target).from_pretrained(tmp_path, output_loading_info=True)
    parts = {"classifier", "layernorm", "hidden_states_norms", "swin.layernorm"}
    odd = [*info["missing_keys"], *info["unexpected_keys"]]
    assert set(odd) == set(info["explained"])
    assert {name.rsplit(".", 1)[0].split(".1")[0].split(".stage")[0] for name in odd} <= parts
    x = pixels(case.sizes[0])
    base = getattr(theirs, "swin", getattr(theirs, "resnet", theirs))
    with torch.no_grad():
        expected = base(x, output_hidden_states=True).hidden_states[0]
        model = getattr(ours, "swin", getattr(ours, "resnet", ours))
        actual = model(x, output_hidden_states=True).hidden_states[0]
    close(actual.flatten(2).mT if actual.ndim == 4 and expected.ndim == 3 else actual, expected, name="stem")
