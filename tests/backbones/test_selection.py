"""Selecting stages of native backbones: the same maps whatever is selected, and nothing built that is not needed."""

import re
from pathlib import Path

import pytest
from backbone_rows import Row, backward, run, shown
from oracle import same, saved_keys


class TestSelection:
    def test_selections_give_the_same_maps_and_names(self, row: Row, tmp_path: Path) -> None:
        x, whole = row.pixels(), row.build(prune=False)
        whole.save_pretrained(tmp_path)
        everything = run(whole, x).feature_maps
        tensors, on_disk = whole.state_dict(), saved_keys(tmp_path)
        for selection in row.few_selections:
            model, info = row.backbone.from_pretrained(
                tmp_path, prune=True, out_indices=selection, output_loading_info=True
            )
            assert info["missing_keys"] == []
            assert set(info["unexpected_keys"]) == set(info["explained"]) <= on_disk
            assert len(info["unexpected_keys"]) == len(tensors.keys() - model.state_dict().keys())
            for name, tensor in model.state_dict().items():
                same(tensor, tensors[name], name)
            same(run(model, x).feature_maps, [everything[index - row.first] for index in model.selected])

    def test_names_do_not_choose_differently_from_indices(self, row: Row) -> None:
        names = [row.stages[index][0] for index in (1, 3)]
        by_name, by_index = row.describe(out_features=names), row.describe(out_indices=(1, 3))
        assert by_name.out_indices == [1, 3]
        assert by_name.config == by_index.config
        assert by_name.state_dict().keys() == by_index.state_dict().keys()

    def test_pruning(self, row: Row) -> None:
        counts = [row.describe(out_indices=[index]).num_parameters() for index in row.indices]
        assert counts == sorted(set(counts)), f"not one parameter less for an earlier stage: {counts}"
        for selection in row.few_selections:
            model = row.build(out_indices=selection)
            backward(model(row.pixels()).feature_maps)
            assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_the_last_stage_is_selected_when_nothing_is(self, row: Row) -> None:
        model = row.backbone(row.config())
        assert model.out_indices == [len(row.stages) - 1]
        assert model.out_features == [row.stages[-1][0]]

    def test_nothing_selected(self, row: Row) -> None:
        model = row.build(out_indices=[])
        assert run(model, row.pixels()).feature_maps == ()
        assert model.channels == model.strides == model.out_features == []

    def test_narrowing_and_widening(self, row: Row) -> None:
        model, x = row.build(out_indices=[1, 3]), row.pixels()
        one, two, three = (row.stages[index][0] for index in (1, 2, 3))
        both = run(model, x).feature_maps
        model.out_indices = (1,)
        assert model.out_features == [one]
        same(run(model, x).feature_maps, both[:1])
        model.out_features = [one, three]
        same(run(model, x).feature_maps, both)
        text = (
            f"out_features={[one, two]} asks for stages this pruned backbone was not built with (it has "
            f"{[one, three]}). Build it with the stages wanted, or with prune=False to keep them all."
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            model.out_features = [one, two]
        with pytest.raises(ValueError, match=r"^out_indices=\[2\] asks for stages this pruned backbone"):
            model.out_indices = [2]
        listed = ", ".join(f"{index}: {name}" for index, (name, _, _) in enumerate(row.stages[:2]))
        with pytest.raises(ValueError, match=rf"names 'stage9', which is no stage\. .*The stages are {listed}"):
            model.out_features = ["stage9"]
        assert model.out_features == [one, three]

    def test_unpruned(self, row: Row) -> None:
        whole = row.build()
        model = row.build(out_indices=[row.first], prune=False)
        assert model.state_dict().keys() == whole.state_dict().keys()
        model.load_state_dict(whole.state_dict())
        x = row.pixels()
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
        model = row.describe(out_strides=strides)
        assert model.out_indices == deepest
        assert model.strides == strides
        assert model.state_dict().keys() == row.describe(out_indices=deepest).state_dict().keys()
        exists = ", ".join(f"{name}: {shown(stride)}" for name, _, stride in row.stages)
        text = f"out_strides asks for stride 7, which no stage has. The strides are {exists}."
        with pytest.raises(ValueError, match=re.escape(text)):
            row.describe(out_strides=[7])
        if len(strides) > 1:
            with pytest.raises(ValueError, match=r"^out_strides=.* is not in stage order"):
                row.describe(out_strides=strides[::-1])

    def test_the_stages_before_the_first_that_can_be_selected(self, row: Row) -> None:
        names = [name for name, _, _ in row.stages]
        if row.first == 0:
            assert row.describe(out_indices=[0]).out_features == names[:1]
            return
        for prune in (True, False):
            text = f"has no map of the {names[0]}; select from {names[row.first :]}"
            with pytest.raises(ValueError, match=re.escape(text)):
                row.describe(out_indices=[0, 1], prune=prune)
