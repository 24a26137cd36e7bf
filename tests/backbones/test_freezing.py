"""Freezing native backbones: nothing wakes what is frozen, and it survives files and copies."""

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_rows import Row, backward, everywhere, run, statistics
from oracle import same
from torch import nn

from vertebra.backbones.base import Backbone


class TestFreezing:
    UPTO = 2
    reached: dict[tuple[str, int], set[str]] = {}

    def reaching(self, row: Row, upto: int = UPTO) -> set[str]:
        """Parameters on which maps and states up to the frozen stage depend: found by differentiating."""
        if (row.name, upto) not in self.reached:
            model = row.build()
            output = model(row.pixels(), output_hidden_states=True)
            backward([*output.feature_maps[: max(upto + 1 - row.first, 0)], *output.hidden_states[: upto + 1]])
            self.reached[row.name, upto] = {name for name, p in model.named_parameters() if p.grad is not None}
        return self.reached[row.name, upto]

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
        inside = row.describe(out_indices=[self.UPTO]).state_dict()
        for name, buffer in model.named_buffers():
            moves = name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
            assert torch.equal(buffer, before[name]) != (moves and name not in inside), name
        assert not torch.equal(output.hidden_states[-1], expected["hidden_states"][-1]), "nothing is awake"

    def reference(self, row: Row) -> dict[str, Any]:
        x = row.pixels(batch=4)
        output = run(row.build(), x, output_hidden_states=True)
        return {"pixels": x, **output}

    def test_no_way_of_calling_train_wakes_it(self, row: Row) -> None:
        expected = self.reference(row)
        for way in ("model", "wrapper", "every module", "children"):
            model = row.build()
            model.freeze(upto=row.stages[self.UPTO][0])
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
        report = model.freeze(row.stages[self.UPTO][0])
        model.save_pretrained(tmp_path)
        loaded = row.backbone.from_pretrained(tmp_path)
        assert loaded.config == model.config.__class__.from_pretrained(tmp_path)
        assert loaded.config.freeze == row.stages[self.UPTO][0]
        assert str(loaded.frozen_report()) == str(report)
        self.assert_frozen(row, loaded, loaded.train, expected)

    def test_from_the_configuration(self, row: Row, tmp_path: Path) -> None:
        expected = self.reference(row)
        model = row.build(freeze=row.stages[self.UPTO][0])
        self.assert_frozen(row, model, model.train, expected)
        row.build().save_pretrained(tmp_path)
        loaded = row.backbone.from_pretrained(tmp_path, freeze=row.stages[self.UPTO][0])
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
        report = model.freeze(row.stages[self.UPTO][0])
        frozen = self.reaching(row)
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        count, total = sum(sizes[name] for name in frozen), sum(sizes.values())
        assert set(report.parameters) == frozen
        assert (report.upto, report.frozen, report.total) == (row.stages[self.UPTO][0], count, total)
        assert str(report) == (
            f"frozen up to {row.stages[self.UPTO][0]}: {count:,} of {total:,} parameters ({100 * count / total:.1f}%), "
            f"{len(report.modules)} modules"
        )
        asleep = {name for name, module in model.train().named_modules() if not module.training}
        assert set(report.modules) == asleep
        assert str(model.frozen_report()) == str(report)
        assert model.num_parameters(only_trainable=True) == total - count

    def test_everything(self, row: Row) -> None:
        model, x = row.build(), row.pixels()
        expected = run(model, x).feature_maps
        report = model.freeze()
        assert report.upto == row.stages[-1][0]
        assert report.frozen == report.total
        before = statistics(model)
        same(model.train()(x).feature_maps, expected)
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())

    def test_unfreeze(self, row: Row) -> None:
        model, one, three = row.build(), row.stages[1][0], row.stages[3][0]
        types = [type(module) for module in model.modules()]
        names = list(model.state_dict())
        model.freeze(one)
        model.freeze(three)  # anew, not on top
        model.freeze(one)
        assert model.frozen_report().upto == one
        assert list(model.state_dict()) == names
        model.unfreeze()
        assert [type(module) for module in model.modules()] == types
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        assert all(module.training for module in model.train().modules())
        assert str(model.frozen_report()).startswith("frozen: 0 of ")
        assert model.config.freeze is None

    def test_the_first_stage_alone(self, row: Row) -> None:
        model = row.build()
        model.freeze(row.stages[0][0])
        assert set(model.frozen_report().parameters) == self.reaching(row, upto=0)

    def test_what_cannot_be_frozen(self, row: Row) -> None:
        model = row.build(out_indices=[1, 2])
        two, three = row.stages[2][0], row.stages[3][0]
        text = f"Stage {three!r} was pruned: this backbone ends with {two!r}. Freeze up to that, or build with prune=False."
        with pytest.raises(ValueError, match=re.escape(text)):
            model.freeze(three)
        with pytest.raises(ValueError, match=r"names 'layer1', which is no stage\."):
            model.freeze("layer1")
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert row.build(out_indices=[1], prune=False).freeze(three).frozen > 0
