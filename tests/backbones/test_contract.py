"""The contract of every native backbone; what a row of `backbone_rows.ROWS` states is the oracle."""

import math
import re

import pytest
import torch
from backbone_rows import Row, pair, run
from oracle import close, same

import vertebra
from vertebra import AutoBackbone
from vertebra.inspection.verify import verify


class TestClaims:
    def test_names_channels_and_strides(self, row: Row) -> None:
        for selection in row.selections:
            model = row.describe(out_indices=selection)
            chosen = [row.stages[index] for index in selection]
            assert model.stage_names == [name for name, _, _ in row.stages]
            assert model.out_features == [name for name, _, _ in chosen]
            assert model.out_indices == selection
            assert model.channels == [channels for _, channels, _ in chosen]
            assert model.strides == [stride for _, _, stride in chosen]
            assert model.num_features == [channels for _, channels, _ in row.stages]
            assert model.out_feature_channels == {name: channels for name, channels, _ in chosen}
            sides = [hop for _, _, stride in row.stages[: max(model.selected) + 1] for hop in pair(stride)]
            assert model.size_divisor == math.lcm(*sides, row.divisor)

    def test_classes_are_public_and_registered(self, row: Row) -> None:
        for cls in (row.backbone.config_class, *(row.ours(kind) for kind in ("Backbone", *row.kinds))):
            assert getattr(vertebra, cls.__name__) is cls
        with torch.device("meta"):
            assert type(AutoBackbone.from_config(row.config())) is row.backbone

    def test_shapes_are_those_foretold(self, row: Row) -> None:
        model = row.build()
        for size in row.sizes:
            assert model.accepts(*size)
            maps = run(model, torch.randn(3, 3, *size)).feature_maps
            foretold = model.output_shapes(*size)
            assert list(foretold) == model.out_features
            assert [tuple(m.shape) for m in maps] == [(3, *shape) for shape in foretold.values()]
            for (_, channels, stride), m in zip(row.stages[row.first :], maps, strict=True):
                down, right = pair(stride)
                assert tuple(m.shape) == (3, channels, row.cells(size[0] / down), row.cells(size[1] / right))
                assert m.is_contiguous() or m.is_contiguous(memory_format=torch.channels_last)

    def test_sizes_that_do_not_run_are_refused_with_one_that_does(self, row: Row) -> None:
        model = row.build()
        assert not model.accepts(0, 5)
        with pytest.raises(ValueError, match="An image of -4x5 has no pixels"):
            model.output_shapes(-4, 5)
        if row.refused is None:
            assert model.accepts(1, 1)
            assert [m.shape[1] for m in run(model, torch.randn(1, 3, 1, 1)).feature_maps] == model.channels
            return
        assert not model.accepts(*row.refused)
        for call in (lambda: model.output_shapes(*row.refused), lambda: model(torch.randn(1, 3, *row.refused))):
            with pytest.raises(ValueError, match=r"nearest size that runs is \d+x\d+") as caught:
                call()
            height, width = re.search(r"nearest size that runs is (\d+)x(\d+)", str(caught.value)).groups()
            assert run(model, torch.randn(1, 3, int(height), int(width))).feature_maps

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
        x, whole = row.pixels(), row.build()
        states = run(whole, x, output_hidden_states=True).hidden_states
        assert row.widths(states) == [channels for _, channels, _ in row.stages]
        for selection in row.few_selections:
            model = row.build(out_indices=selection)
            model.load_state_dict(whole.state_dict(), strict=False)
            output = run(model, x, output_hidden_states=True)
            same(output.hidden_states, states[: max(model.selected) + 1])
            assert list(output) == ["feature_maps", "hidden_states"]
        assert list(run(row.build(output_hidden_states=True), x)) == ["feature_maps", "hidden_states"]

    def test_attentions(self, row: Row) -> None:
        model, x = row.build(out_indices=[-2]), row.pixels()
        if row.attentions:
            output = run(model, x, output_attentions=True)
            assert len(output.attentions) == sum(row.attentions[:-1])
            for attention in output.attentions:
                close(attention.sum(-1), torch.ones(attention.shape[:-1]))
            close(output.feature_maps, run(model, x).feature_maps)  # another route through the same attention
        else:
            text = f"{type(model).__name__} has no attention weights to return; leave output_attentions out."
            with pytest.raises(ValueError, match=re.escape(text)):
                model(x, output_attentions=True)

    def test_plain_tuples(self, row: Row) -> None:
        model, x = row.build(), row.pixels()
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


class TestClaimsHoldUp:
    def test_verify_agrees(self, row: Row) -> None:
        report = verify(row.describe(), row.sizes[0], "cpu")
        assert report, str(report)

    def test_the_default_configuration(self, row: Row) -> None:
        if (default := row.default) is None:
            return
        with torch.device("meta"):
            every = range(row.first, row.first + len(default.channels))
            model = row.backbone(row.backbone.config_class(out_indices=every)).eval()
            assert model.channels == list(default.channels)
            assert model.strides == list(default.strides)
            assert model.num_parameters() == default.parameters
            maps = run(model, torch.empty(1, 3, *model.native_size)).feature_maps
        assert [tuple(m.shape[1:]) for m in maps] == list(model.output_shapes(*model.native_size).values())
        assert [m.shape[1] for m in maps] == list(default.channels)
        for side, axis in zip(model.native_size, (-2, -1), strict=True):
            assert [m.shape[axis] for m in maps] == [row.cells(side / stride) for stride in default.strides]

    @pytest.mark.slow
    def test_verify_agrees_on_the_default_configuration(self, row: Row) -> None:
        if row.default is not None:
            with torch.device("meta"):
                report = verify(row.backbone(row.backbone.config_class()))
            assert report, str(report)

    def test_a_selection_widened_behind_its_back_is_refused(self, row: Row) -> None:
        model = row.build(out_indices=[1])
        model.config.out_indices = [2]
        with pytest.raises(ValueError, match="asks for stages this pruned backbone was not built with"):
            model(row.pixels())

    def test_strides_can_be_assigned(self, row: Row) -> None:
        model = row.build(prune=False)
        model.out_strides = [model.stages[-1].stride]
        assert model.out_features == [model.stages[-1].name]
        assert model.out_strides == model.strides
        with pytest.raises(ValueError, match=r"out_strides='8' must be a list or tuple of strides"):
            model.out_strides = "8"

    def test_ones_own_freezing_outlives_ours(self, row: Row) -> None:
        model = row.build()
        name, last = list(model.named_parameters())[-1]
        last.requires_grad_(False)
        model.freeze(model.stage_names[1])
        model.unfreeze()
        assert [key for key, parameter in model.named_parameters() if not parameter.requires_grad] == [name]
