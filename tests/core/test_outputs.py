"""Outputs as dictionaries, tuples, objects and pytrees."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import same
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vertebra.outputs import BackboneOutput, BaseModelOutput, ImageClassifierOutput

MAPS = (torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 2, 2))
STATES = (torch.full((1, 2, 4, 4), 2.0),)


def full() -> BackboneOutput:
    return BackboneOutput(feature_maps=MAPS, attentions=STATES)


class TestAccess:
    def test_fields_that_are_none_are_left_out(self) -> None:
        output = full()
        assert list(output) == list(output.keys()) == ["feature_maps", "attentions"]
        assert len(output) == 2
        assert output.hidden_states is None
        assert "hidden_states" not in output
        assert output["attentions"] is output.attentions is output[1] is STATES
        assert output[-1] is STATES
        assert output[:1] == (MAPS,)
        assert output[0:9] == output.to_tuple() == (MAPS, STATES)
        assert output.get("hidden_states", "absent") == "absent"
        assert dict(output) == dict(output.items()) == {"feature_maps": MAPS, "attentions": STATES}
        maps, states = output.values()
        assert (maps, states) == (MAPS, STATES)

    def test_empty(self) -> None:
        output = BackboneOutput()
        assert (list(output), output.to_tuple(), len(output)) == ([], (), 0)

    def test_what_does_not_exist(self) -> None:
        output = full()
        with pytest.raises(KeyError, match="hidden_states"):
            output["hidden_states"]
        with pytest.raises(IndexError):
            output[2]
        with pytest.raises(AttributeError, match="'BackboneOutput' object has no attribute 'logits'"):
            output.logits  # noqa: B018
        text = (
            r"^BackboneOutput has no field 'logits'; its fields are feature_maps, hidden_states, attentions, tokens\.$"
        )
        with pytest.raises(AttributeError, match=text):
            output.logits = 1
        with pytest.raises(AttributeError, match=text):
            output["logits"] = 1

    def test_assignment_keeps_both_sides_in_step(self) -> None:
        output = full()
        output.hidden_states = STATES
        assert output["hidden_states"] is STATES
        output["attentions"] = MAPS
        assert output.attentions is MAPS
        output.attentions = None
        assert list(output) == ["feature_maps", "hidden_states"]
        output["attentions"] = None
        assert "attentions" not in output
        # positions follow the order of the fields, not of assignment
        late = BackboneOutput(attentions=STATES)
        late.feature_maps = MAPS
        assert late.to_tuple() == (MAPS, STATES)
        with pytest.raises(TypeError, match=r"cannot be deleted; set output\.feature_maps = None to leave it out\."):
            del late["feature_maps"]

    def test_keys_and_values_are_in_the_order_of_the_fields(self) -> None:
        late = BackboneOutput(attentions=STATES)
        late.feature_maps = MAPS
        assert list(late) == ["feature_maps", "attentions"]
        assert tuple(late.values()) == late.to_tuple()

    def test_it_prints_its_content(self) -> None:
        assert repr(BackboneOutput(feature_maps=())) in (
            "BackboneOutput([('feature_maps', ())])",
            "BackboneOutput({'feature_maps': ()})",  # from Python 3.12 on
        )

    @pytest.mark.parametrize(
        "twin",
        [copy.copy, copy.deepcopy, lambda output: pickle.loads(pickle.dumps(output))],
        ids=["copy", "deepcopy", "pickle"],
    )
    def test_copies(self, twin: Any) -> None:
        output = BackboneOutput(feature_maps=MAPS, tokens=(torch.ones(1, 1, 2),))
        again = twin(output)
        assert type(again) is BackboneOutput
        assert list(again) == list(output)
        same(again.feature_maps, MAPS)
        same(again.tokens, (torch.ones(1, 1, 2),))
        again.feature_maps = None
        assert output.feature_maps is MAPS

    def test_the_others(self) -> None:
        base = BaseModelOutput(last_hidden_state=MAPS[0], pooler_output=MAPS[1])
        assert base.to_tuple() == (MAPS[0], MAPS[1])
        classified = ImageClassifierOutput(logits=MAPS[0])
        assert classified[0] is classified.logits
        classified.loss = MAPS[1]
        assert classified[0] is classified.loss


class TestPytree:
    def test_round_trip(self) -> None:
        tokens = (torch.ones(1, 1, 2), torch.zeros(1, 3, 2))
        output = BackboneOutput(feature_maps=MAPS, hidden_states=STATES, tokens=tokens)
        leaves, spec = pytree.tree_flatten(output)
        assert [leaf.shape for leaf in leaves] == [tensor.shape for tensor in (*MAPS, *STATES, *tokens)]
        again = pytree.tree_unflatten(leaves, spec)
        assert type(again) is BackboneOutput
        assert again.attentions is None
        same(again.feature_maps, MAPS)
        same(again.tokens, tokens)

    def test_map_and_paths(self) -> None:
        doubled = pytree.tree_map(lambda tensor: tensor * 2, full())
        same(doubled.feature_maps[1], MAPS[1] * 2)
        paths, _ = pytree.tree_flatten_with_path(full())
        assert [pytree.keystr(path) for path, _ in paths] == [
            "['feature_maps'][0]",
            "['feature_maps'][1]",
            "['attentions'][0]",
        ]

    def test_specs_of_outputs_with_other_fields_differ(self) -> None:
        specs = [pytree.tree_structure(o) for o in (full(), BackboneOutput(feature_maps=MAPS), full())]
        assert specs[0] == specs[2] != specs[1]
        assert pytree.treespec_loads(pytree.treespec_dumps(specs[0])) == specs[0]


class Pyramid(nn.Module):
    """Returns an output with tokens, as a backbone does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> BackboneOutput:
        first = self.conv(x)
        token = first.mean((2, 3))[:, None]
        return BackboneOutput(feature_maps=(first, first[:, :, ::2, ::2]), tokens=(token,))


class TestExport:
    def test_an_exported_program_returns_the_output(self, tmp_path: Path) -> None:
        module, x = Pyramid().eval(), torch.randn(2, 3, 8, 6)
        program = torch.export.export(module, (x,))
        torch.export.save(program, tmp_path / "model.pt2")
        loaded = torch.export.load(tmp_path / "model.pt2")
        expected = module(x)
        for output in (program.module()(x), loaded.module()(x)):
            assert type(output) is BackboneOutput
            assert list(output) == ["feature_maps", "tokens"]
            same(output.feature_maps, expected.feature_maps)
            same(output.tokens, expected.tokens)

    def test_a_backbone_exports(self, tmp_path: Path) -> None:
        from vertebra.backbones.resnet import ResNetBackbone, ResNetConfig
        from vertebra.backbones.swin import SwinBackbone, SwinConfig

        swin = SwinConfig(embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=3, out_indices=[1, 2])
        resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_indices=[0, 2])
        for model in (SwinBackbone(swin).eval(), ResNetBackbone(resnet).eval()):
            x = torch.randn(1, 3, 37, 51)
            torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
            output = torch.export.load(tmp_path / "model.pt2").module()(x)
            with torch.no_grad():
                expected = model(x)
            for actual, wanted in zip(output.feature_maps, expected.feature_maps, strict=True):
                torch.testing.assert_close(
                    actual.detach(), wanted, rtol=1e-5, atol=1e-5
                )  # oneDNN's order of sums, and MKL's


def test_code_that_rebuilds_mappings_gets_an_output_back() -> None:
    """Gathering from replicas and casting call `type(output)` with a mapping or with pairs."""
    output = BackboneOutput(feature_maps=(torch.ones(1, 2),), hidden_states=(torch.zeros(1, 2),))
    for again in (
        BackboneOutput(dict(output)),
        BackboneOutput((key, value) for key, value in output.items()),
        output | {"attentions": (torch.ones(1),)},
    ):
        assert type(again) is BackboneOutput
        assert again.feature_maps is output.feature_maps
        assert again["hidden_states"] is output.hidden_states
    for spoil in (output.clear, output.popitem, lambda: output.pop("feature_maps")):
        with pytest.raises(TypeError, match="The fields of BackboneOutput are fixed; set one to None"):
            spoil()
