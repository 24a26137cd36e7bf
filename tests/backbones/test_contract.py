"""The contract of every native backbone. A new family is one row of `ROWS`; what a row states is the oracle."""

import copy
import math
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import close, perturb, same
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.resnet import ResNetBackbone
from vertebra.backbones.swin import MaskFormerSwinBackbone, SwinBackbone
from vertebra.inspection.verify import verify


def without_blocks(model: nn.Module) -> None:
    """Leave only patches and merging of a Swin: every cell then sees exactly its own pixels."""
    for name, parameter in model.named_parameters():
        if re.search(r"blocks\.\d+\.(attention\.)?output\.dense", name):
            parameter.data.zero_()


def all_positive(model: nn.Module) -> None:
    """Make a convolutional net let every pixel through that a cell can see."""
    for name, child in list(model.named_modules()):
        if isinstance(child, nn.Conv2d):
            child.weight.data.fill_(1.0 / child.weight[0].numel())
        elif isinstance(child, nn.MaxPool2d):
            mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
            model.get_submodule(name.rpartition(".")[0]).add_module(name.rpartition(".")[2], mean)


@dataclass(frozen=True)
class Row:
    """A backbone of tiny shape and what is true of it.

    Args:
        backbone: The class.
        kwargs: Its configuration, with everything random switched on as far as the family has it.
        stages: Name, channels and stride of each stage.
        bare: Makes each cell see all of its pixels and no others, for the test of positions.
        first: Index of the first stage that can be selected.
        attentions: Whether there are attention weights.
    """

    backbone: type[Backbone]
    kwargs: dict[str, Any]
    stages: tuple[tuple[str, int, Any], ...]
    bare: Callable[[nn.Module], None]
    first: int = 0
    attentions: bool = True

    def config(self, **kwargs: Any) -> Any:
        return self.backbone.config_class(**{**self.kwargs, **kwargs})

    def build(self, **kwargs: Any) -> Backbone:
        """A backbone in evaluation mode; the same weights for the same selection. All stages are the default."""
        if not {"out_indices", "out_features", "out_strides"} & kwargs.keys():
            kwargs["out_indices"] = list(self.indices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return perturb(self.backbone(self.config(**kwargs))).eval()

    @property
    def indices(self) -> range:
        return range(self.first, len(self.stages))

    @property
    def selections(self) -> Iterator[list[int]]:
        """All selections, every second index counted from the end."""
        for size in range(1, len(self.indices) + 1):
            for chosen in combinations(self.indices, size):
                yield [index - len(self.stages) if place % 2 else index for place, index in enumerate(chosen)]


RANDOM = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "drop_path_rate": 0.5}
SWIN = {"embed_dim": 8, "depths": [2, 1, 2], "num_heads": [1, 2, 4], "window_size": 3, "image_size": 32, **RANDOM}
RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1]}
FOUR = (("stem", 8, 4), ("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 32, 16))
OBLONG = (("stem", 8, (2, 4)), ("stage1", 8, (2, 4)), ("stage2", 16, (4, 8)), ("stage3", 32, (8, 16)))
RES = (("stem", 8, 4), ("stage1", 16, 4), ("stage2", 32, 8), ("stage3", 48, 16))
FIRST = (("stem", 8, 4), ("stage1", 16, 8), ("stage2", 32, 16), ("stage3", 48, 32))

ROWS = {
    "swin": Row(SwinBackbone, SWIN, FOUR, without_blocks),
    "swin-oblong": Row(SwinBackbone, {**SWIN, "patch_size": (2, 4)}, OBLONG, without_blocks),
    "swin-positions": Row(SwinBackbone, {**SWIN, "use_absolute_embeddings": True}, FOUR, without_blocks),
    "maskformer-swin": Row(MaskFormerSwinBackbone, SWIN, FOUR, without_blocks, first=1),
    "resnet-bottleneck": Row(ResNetBackbone, RESNET, RES, all_positive, attentions=False),
    "resnet-v1": Row(
        ResNetBackbone,
        {**RESNET, "downsample_in_bottleneck": True, "downsample_in_first_stage": True},
        FIRST,
        all_positive,
        attentions=False,
    ),
    "resnet-basic": Row(ResNetBackbone, {**RESNET, "layer_type": "basic"}, RES, all_positive, attentions=False),
}
SIZES = [(64, 64), (37, 51), (33, 70), (17, 16), (5, 90)]


def pair(stride: Any) -> tuple[int, int]:
    return stride if isinstance(stride, tuple) else (stride, stride)


def shown(stride: Any) -> str:
    return "x".join(map(str, stride)) if isinstance(stride, tuple) else str(stride)


def pixels(size: tuple[int, int] = (37, 51), batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size)


def run(model: nn.Module, x: Tensor, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(x, **kwargs)


def everywhere(model: nn.Module) -> None:
    """Put every single module into training mode, one by one."""
    for module in model.modules():
        module.train()


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


class TestClaims:
    def test_names_channels_and_strides(self, row: Row) -> None:
        for selection in row.selections:
            model = row.build(out_indices=selection)
            chosen = [row.stages[index] for index in selection]
            assert model.stage_names == [name for name, _, _ in row.stages]
            assert model.out_features == [name for name, _, _ in chosen]
            assert model.out_indices == selection
            assert model.channels == [channels for _, channels, _ in chosen]
            assert model.strides == [stride for _, _, stride in chosen]
            assert model.num_features == [channels for _, channels, _ in row.stages]
            assert model.out_feature_channels == {name: channels for name, channels, _ in chosen}
            sides = [hop for _, _, stride in row.stages[: max(model.selected) + 1] for hop in pair(stride)]
            assert model.size_divisor == math.lcm(*sides)

    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_shapes_are_those_foretold(self, row: Row, size: tuple[int, int]) -> None:
        model = row.build()
        assert model.accepts(*size)
        maps = run(model, pixels(size, batch=3)).feature_maps
        foretold = model.output_shapes(*size)
        assert list(foretold) == model.out_features
        assert [tuple(m.shape) for m in maps] == [(3, *shape) for shape in foretold.values()]
        for (_, channels, stride), m in zip(row.stages[row.first :], maps, strict=True):
            down, right = pair(stride)
            assert tuple(m.shape) == (3, channels, math.ceil(size[0] / down), math.ceil(size[1] / right))
            assert m.is_contiguous() or m.is_contiguous(memory_format=torch.channels_last)

    def test_cells_lie_where_the_stage_says(self, row: Row) -> None:
        model = row.build().double()
        row.bare(model)
        side = 16 * max(pair(row.stages[-1][2]))
        x = torch.rand(1, 3, side, side, dtype=torch.float64).add_(1.0).requires_grad_()
        for stage, m in zip(model.output_stages, model(x).feature_maps, strict=True):
            rows, columns = m.shape[-2] // 2, m.shape[-1] // 2
            for cell in ((rows, columns), (rows - 1, columns + 1)):
                direction = torch.randn(m.shape[1], dtype=torch.float64)
                (seen,) = torch.autograd.grad(m[0, :, cell[0], cell[1]] @ direction, x, retain_graph=True)
                seen = seen[0].abs().sum(0) > 0
                centre = []
                for axis in (1, 0):
                    touched = seen.any(axis).nonzero().flatten()
                    assert touched[0] > 0, "the image is too small for this test"
                    assert touched[-1] < side - 1, "the image is too small for this test"
                    centre.append((touched[0].item() + touched[-1].item() + 1) / 2)
                assert tuple(centre) == stage.cell_to_pixel(*cell), f"{stage.name} at {cell}"
                assert stage.pixel_to_cell(*centre) == cell

    def test_the_configuration_is_a_copy(self, row: Row) -> None:
        config = row.config(out_indices=[1, 2])
        model = row.backbone(config)
        config.out_indices = [3]
        assert model.out_indices == [1, 2]
        model.out_indices = [2]
        assert model.config.out_indices == [2]
        assert config.out_indices == [3]

    def test_states_start_at_the_stem_and_end_with_the_selection(self, row: Row) -> None:
        x = pixels()
        states = run(row.build(), x, output_hidden_states=True).hidden_states
        assert [state.shape[1] for state in states] == [channels for _, channels, _ in row.stages]
        for selection in row.selections:
            model = row.build(out_indices=selection)
            model.load_state_dict(row.build().state_dict(), strict=False)
            output = run(model, x, output_hidden_states=True)
            same(output.hidden_states, states[: max(model.selected) + 1])
            assert list(output) == ["feature_maps", "hidden_states"]
        assert list(run(row.build(output_hidden_states=True), x)) == ["feature_maps", "hidden_states"]

    def test_attentions(self, row: Row) -> None:
        model, x = row.build(out_indices=[-2]), pixels()
        if row.attentions:
            output = run(model, x, output_attentions=True)
            assert len(output.attentions) == len(row.stages) - 2
            for attention in output.attentions:
                close(attention.sum(-1), torch.ones(attention.shape[:-1]))
            close(output.feature_maps, run(model, x).feature_maps)  # another route through the same attention
        else:
            text = f"{type(model).__name__} has no attention weights to return; leave output_attentions out."
            with pytest.raises(ValueError, match=re.escape(text)):
                model(x, output_attentions=True)

    def test_plain_tuples(self, row: Row) -> None:
        model, x = row.build(), pixels()
        output = run(model, x, output_hidden_states=True)
        maps, states = run(model, x, output_hidden_states=True, return_dict=False)
        same(maps, output.feature_maps)
        same(states, output.hidden_states)
        (alone,) = run(row.build(return_dict=False), x)
        same(alone, maps)

    def test_bad_pixels(self, row: Row) -> None:
        model = row.build()
        text = (
            r"pixel_values of shape {} must be (batch, 3, height, width). An image processor makes them: "
            r"processor(image, return_tensors='pt').pixel_values."
        )
        for shape in ((3, 32, 32), (1, 4, 32, 32), (1, 32, 32, 3), (32, 32)):
            with pytest.raises(ValueError, match=re.escape(text.format(shape))):
                model(torch.zeros(shape))


class TestSelection:
    def test_every_selection_gives_the_same_maps_and_names(self, row: Row, tmp_path: Path) -> None:
        x, whole = pixels(), row.build(prune=False)
        whole.save_pretrained(tmp_path)
        everything = run(whole, x).feature_maps
        tensors = whole.state_dict()
        for selection in row.selections:
            model, info = row.backbone.from_pretrained(
                tmp_path, prune=True, out_indices=selection, output_loading_info=True
            )
            assert info["missing_keys"] == []
            assert set(info["unexpected_keys"]) == set(info["explained"]) == tensors.keys() - model.state_dict().keys()
            for name, tensor in model.state_dict().items():
                same(tensor, tensors[name], name)
            same(run(model, x).feature_maps, [everything[index - row.first] for index in model.selected])

    def test_names_do_not_choose_differently_from_indices(self, row: Row) -> None:
        names = [row.stages[index][0] for index in (1, 3)]
        by_name, by_index = row.build(out_features=names), row.build(out_indices=(1, 3))
        assert by_name.out_indices == [1, 3]
        assert by_name.config == by_index.config
        assert by_name.state_dict().keys() == by_index.state_dict().keys()

    def test_pruning(self, row: Row) -> None:
        counts = [row.build(out_indices=[index]).num_parameters() for index in row.indices]
        assert counts == sorted(set(counts)), f"not one parameter less for an earlier stage: {counts}"
        for selection in row.selections:
            model = row.build(out_indices=selection)
            sum((m * torch.randn_like(m)).sum() for m in model(pixels()).feature_maps).backward()
            assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_the_last_stage_is_selected_when_nothing_is(self, row: Row) -> None:
        model = row.backbone(row.config())
        assert model.out_indices == [len(row.stages) - 1]
        assert model.out_features == [row.stages[-1][0]]

    def test_nothing_selected(self, row: Row) -> None:
        model = row.build(out_indices=[])
        assert run(model, pixels()).feature_maps == ()
        assert model.channels == model.strides == model.out_features == []

    def test_narrowing_and_widening(self, row: Row) -> None:
        model, x = row.build(out_indices=[1, 3]), pixels()
        both = run(model, x).feature_maps
        model.out_indices = (1,)
        assert model.out_features == ["stage1"]
        same(run(model, x).feature_maps, both[:1])
        model.out_features = ["stage1", "stage3"]
        same(run(model, x).feature_maps, both)
        text = (
            "out_features=['stage1', 'stage2'] asks for stages this pruned backbone was not built with (it has "
            "['stage1', 'stage3']). Build it with the stages wanted, or with prune=False to keep them all."
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            model.out_features = ["stage1", "stage2"]
        with pytest.raises(ValueError, match=r"^out_indices=\[2\] asks for stages this pruned backbone"):
            model.out_indices = [2]
        with pytest.raises(
            ValueError, match=r"names 'stage9', which is no stage\. .*The stages are 0: stem, 1: stage1"
        ):
            model.out_features = ["stage9"]
        assert model.out_features == ["stage1", "stage3"]

    def test_unpruned(self, row: Row) -> None:
        whole = row.build()
        model = row.build(out_indices=[row.first], prune=False)
        assert model.state_dict().keys() == whole.state_dict().keys()
        model.load_state_dict(whole.state_dict())
        x = pixels()
        expected = run(whole, x, output_hidden_states=True)
        same(run(model, x, output_hidden_states=True).hidden_states, expected.hidden_states)
        for index in row.indices:
            model.out_indices = [index]
            same(run(model, x).feature_maps, [expected.feature_maps[index - row.first]])

    def test_by_stride(self, row: Row) -> None:
        strides = list(dict.fromkeys(stride for _, _, stride in row.stages))
        deepest = [max(i for i, (_, _, other) in enumerate(row.stages) if other == stride) for stride in strides]
        deepest = [index for index in deepest if index >= row.first]
        strides = [row.stages[index][2] for index in deepest]
        model = row.build(out_strides=strides)
        assert model.out_indices == deepest
        assert model.strides == strides
        assert model.state_dict().keys() == row.build(out_indices=deepest).state_dict().keys()
        exists = ", ".join(f"{name}: {shown(stride)}" for name, _, stride in row.stages)
        text = f"out_strides asks for stride 7, which no stage has. The strides are {exists}."
        with pytest.raises(ValueError, match=re.escape(text)):
            row.build(out_strides=[7])
        with pytest.raises(ValueError, match=r"^out_strides=.* is not in stage order"):
            row.build(out_strides=strides[::-1])

    def test_the_stem_of_maskformer(self, row: Row) -> None:
        if row.first == 0:
            assert row.build(out_indices=[0]).out_features == ["stem"]
            return
        for prune in (True, False):
            with pytest.raises(
                ValueError, match=r"has no map of the stem; select from \['stage1', 'stage2', 'stage3'\]"
            ):
                row.build(out_indices=[0, 1], prune=prune)


class TestSizes:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("last", [-1, -2])
    def test_pad(self, row: Row, size: tuple[int, int], last: int) -> None:
        chosen = [-3, last]
        model, plain = row.build(out_indices=chosen, size_policy="pad"), row.build(out_indices=chosen)
        divisor = plain.size_divisor
        x = pixels(size)
        padded = torch.zeros(2, 3, *(math.ceil(side / divisor) * divisor for side in size))
        padded[:, :, : size[0], : size[1]] = x
        expected = run(plain, padded, output_hidden_states=True)
        actual = run(model, x, output_hidden_states=True)

        def covering(maps: Any, indices: Any) -> list[Tensor]:
            cells = [[math.ceil(s / hop) for s, hop in zip(size, pair(row.stages[i][2]), strict=True)] for i in indices]
            return [m[:, :, :high, :wide] for m, (high, wide) in zip(maps, cells, strict=True)]

        close(actual.feature_maps, covering(expected.feature_maps, plain.selected), tol=1e-6)
        close(actual.hidden_states, covering(expected.hidden_states, range(plain.last_stage + 1)), tol=1e-6)
        assert [tuple(m.shape[1:]) for m in actual.feature_maps] == list(model.output_shapes(*size).values())

    def test_floor(self, row: Row) -> None:
        model, plain = row.build(size_policy="floor"), row.build()
        divisor = max(pair(row.stages[-1][2]))
        x = pixels((3 * divisor - 1, 2 * divisor + 3))
        close(run(model, x).feature_maps, run(plain, x[:, :, : 2 * divisor, : 2 * divisor]).feature_maps, tol=1e-6)
        assert model.output_shapes(*x.shape[-2:]) == plain.output_shapes(2 * divisor, 2 * divisor)
        small = (divisor - 1, 4 * divisor)
        assert not model.accepts(*small)
        text = (
            f"An image of {small[0]}x{small[1]} is smaller than one cell of the last stage, and size_policy='floor' "
            f"would leave nothing of it. The smallest size is {divisor}x{divisor}; size_policy='pad' takes any."
        )
        for call in (lambda: model.output_shapes(*small), lambda: model(pixels(small))):
            with pytest.raises(ValueError, match=re.escape(text)):
                call()

    def test_unknown_policy(self, row: Row) -> None:
        with pytest.raises(ValueError, match=r"^size_policy='crop' must be one of floor, pad, or None\.$"):
            row.config(size_policy="crop")


class TestClaimsHoldUp:
    def test_verify_agrees(self, row: Row) -> None:
        for device in ("meta", "cpu"):
            report = verify(row.build(), (96, 96), device)
            assert report, str(report)

    def test_a_selection_widened_behind_its_back_is_refused(self, row: Row) -> None:
        model = row.build(out_indices=[1])
        model.config.out_indices = [2]
        with pytest.raises(ValueError, match="asks for stages this pruned backbone was not built with"):
            model(pixels())

    def test_strides_can_be_assigned(self, row: Row) -> None:
        model = row.build(prune=False)
        model.out_strides = [model.stages[-1].stride]
        assert model.out_features == [model.stages[-1].name]
        assert model.out_strides == model.strides
        with pytest.raises(ValueError, match=r"out_strides='8' must be a list or tuple of strides"):
            model.out_strides = "8"

    def test_sizes_without_pixels_are_refused(self, row: Row) -> None:
        assert not row.build().accepts(0, 5)
        with pytest.raises(ValueError, match="An image of -4x5 has no pixels"):
            row.build().output_shapes(-4, 5)

    def test_ones_own_freezing_outlives_ours(self, row: Row) -> None:
        model = row.build()
        name, last = list(model.named_parameters())[-1]
        last.requires_grad_(False)
        model.freeze(model.stage_names[1])
        model.unfreeze()
        assert [key for key, parameter in model.named_parameters() if not parameter.requires_grad] == [name]


class TestFreezing:
    UPTO = 2

    def reaching(self, row: Row) -> set[str]:
        """Parameters on which the maps up to the frozen stage depend: found by differentiating."""
        model = row.build()
        maps = model(pixels()).feature_maps[: self.UPTO + 1 - row.first]
        sum((m * torch.randn_like(m)).sum() for m in maps).backward()
        return {name for name, p in model.named_parameters() if p.grad is not None}

    def assert_frozen(self, row: Row, model: Any, wake: Callable[[], Any], expected: Any) -> None:
        """After `wake`, a training step leaves the frozen part as it was, and reaches everything else."""
        frozen = self.reaching(row)
        model.zero_grad()
        wake()
        before, x = statistics(model), expected["pixels"]
        output = model(x, output_hidden_states=True)
        sum(m.square().sum() for m in output.feature_maps).backward()
        last = self.UPTO + 1
        same(output.hidden_states[:last], expected["hidden_states"][:last], "states of the frozen stages")
        same(output.feature_maps[: last - row.first], expected["feature_maps"][: last - row.first], "frozen maps")
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == (name in frozen), name
            assert parameter.requires_grad == (name not in frozen), name
        twin = row.build(out_indices=[self.UPTO])
        for name, buffer in model.named_buffers():
            inside = name in twin.state_dict()
            assert torch.equal(buffer, before[name]) == inside, name
        assert not torch.equal(output.hidden_states[-1], expected["hidden_states"][-1]), "nothing is awake"

    def reference(self, row: Row) -> dict[str, Any]:
        x = pixels(batch=4)
        output = run(row.build(), x, output_hidden_states=True)
        return {"pixels": x, **output}

    def test_no_way_of_calling_train_wakes_it(self, row: Row) -> None:
        expected = self.reference(row)
        for way in ("model", "wrapper", "every module", "children"):
            model = row.build()
            model.freeze(upto="stage2")
            wrapper = nn.ModuleDict({"detector": nn.Sequential(model)})
            wake = {
                "model": model.train,
                "wrapper": wrapper.train,
                "every module": lambda m=model: everywhere(m),
                "children": lambda m=model: [child.train(True) for child in m.children()] and m.train(),
            }[way]
            self.assert_frozen(row, model, wake, expected)
            wrapper.eval()
            self.assert_frozen(
                row, model, lambda w=wrapper: w.eval().train(), {**expected, **self.again(model, expected)}
            )

    def again(self, model: Backbone, expected: dict[str, Any]) -> dict[str, Any]:
        """The outputs now, in evaluation mode: a training step has moved the statistics of what is awake."""
        return dict(run(model.eval(), expected["pixels"], output_hidden_states=True))

    def test_after_saving_and_loading(self, row: Row, tmp_path: Path) -> None:
        expected = self.reference(row)
        model = row.build()
        report = model.freeze("stage2")
        model.save_pretrained(tmp_path)
        loaded = row.backbone.from_pretrained(tmp_path)
        assert loaded.config == model.config.__class__.from_pretrained(tmp_path)
        assert loaded.config.freeze == "stage2"
        assert str(loaded.frozen_report()) == str(report)
        self.assert_frozen(row, loaded, loaded.train, expected)

    def test_from_the_configuration(self, row: Row, tmp_path: Path) -> None:
        expected = self.reference(row)
        model = row.build(freeze="stage2")
        self.assert_frozen(row, model, model.train, expected)
        row.build().save_pretrained(tmp_path)
        loaded = row.backbone.from_pretrained(tmp_path, freeze="stage2")
        self.assert_frozen(row, loaded, loaded.train, expected)

    def test_copies(self, row: Row) -> None:
        expected = self.reference(row)
        model = row.build()
        model.freeze(2)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert twin.frozen_report() == model.frozen_report()
            self.assert_frozen(row, twin, twin.train, expected)

    def test_report(self, row: Row) -> None:
        model = row.build()
        report = model.freeze("stage2")
        frozen = self.reaching(row)
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        count, total = sum(sizes[name] for name in frozen), sum(sizes.values())
        assert set(report.parameters) == frozen
        assert (report.upto, report.frozen, report.total) == ("stage2", count, total)
        assert str(report) == (
            f"frozen up to stage2: {count:,} of {total:,} parameters ({100 * count / total:.1f}%), "
            f"{len(report.modules)} modules"
        )
        asleep = {name for name, module in model.train().named_modules() if not module.training}
        assert set(report.modules) == asleep
        assert str(model.frozen_report()) == str(report)
        assert model.num_parameters(only_trainable=True) == total - count

    def test_everything(self, row: Row) -> None:
        model, x = row.build(), pixels()
        expected = run(model, x).feature_maps
        report = model.freeze()
        assert report.upto == "stage3"
        assert report.frozen == report.total
        before = statistics(model)
        same(model.train()(x).feature_maps, expected)
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())

    def test_unfreeze(self, row: Row) -> None:
        model = row.build()
        types = [type(module) for module in model.modules()]
        names = list(model.state_dict())
        model.freeze("stage1")
        model.freeze("stage3")  # anew, not on top
        model.freeze("stage1")
        assert model.frozen_report().upto == "stage1"
        assert list(model.state_dict()) == names
        model.unfreeze()
        assert [type(module) for module in model.modules()] == types
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        assert all(module.training for module in model.train().modules())
        assert str(model.frozen_report()).startswith("frozen up to None: 0 of ")
        assert model.config.freeze is None

    def test_the_stem_alone(self, row: Row) -> None:
        model = row.build()
        model.freeze("stem")
        frozen = model.frozen_report().parameters
        assert frozen
        assert not [name for name in frozen if "stages" in name or "layers" in name or "stage" in name]
        assert {name for name in model.state_dict() if ".embed" in f".{name}"} >= set(frozen) - {
            "hidden_states_norms.stem.weight",
            "hidden_states_norms.stem.bias",
        }

    def test_what_cannot_be_frozen(self, row: Row) -> None:
        model = row.build(out_indices=[1, 2])
        text = (
            "Stage 'stage3' was pruned: this backbone ends with 'stage2'. Freeze up to that, or build with prune=False."
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            model.freeze("stage3")
        with pytest.raises(ValueError, match=r"names 'layer1', which is no stage\."):
            model.freeze("layer1")
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert row.build(out_indices=[1], prune=False).freeze("stage3").frozen > 0


class TestFiles:
    def test_round_trip(self, row: Row, tmp_path: Path) -> None:
        model, x = row.build(out_indices=[-3, -1], size_policy="pad"), pixels()
        model.save_pretrained(tmp_path)
        loaded, info = row.backbone.from_pretrained(tmp_path, output_loading_info=True)
        assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "explained": {}}
        assert loaded.out_indices == [-3, -1]
        assert loaded.config.size_policy == "pad"
        assert not loaded.training
        assert {name: p.dtype for name, p in loaded.named_parameters()} == dict.fromkeys(
            (name for name, _ in model.named_parameters()), torch.float32
        )
        for name, tensor in model.state_dict().items():
            same(loaded.state_dict()[name], tensor, name)
        same(run(loaded, x).to_tuple(), run(model, x).to_tuple())
        loaded.save_pretrained(tmp_path / "again")
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()

    def test_copies_compute_the_same(self, row: Row) -> None:
        model, x = row.build(), pixels()
        expected = run(model, x).feature_maps
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            same(run(twin, x).feature_maps, expected)
            assert twin.config == model.config
            assert twin.stages == model.stages

    def test_random_weights_are_the_seed_s(self, row: Row) -> None:
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(row.backbone.from_config(row.config()).state_dict())
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
        assert all(tensor.isfinite().all() for tensor in states[0].values())

    def test_half_precision(self, row: Row, tmp_path: Path) -> None:
        row.build().save_pretrained(tmp_path)
        model = row.backbone.from_pretrained(tmp_path, dtype="bfloat16")
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        maps = run(model, pixels().bfloat16()).feature_maps
        assert {m.dtype for m in maps} == {torch.bfloat16}
        exact = run(row.build(), pixels()).feature_maps
        assert [m.shape for m in maps] == [m.shape for m in exact]
