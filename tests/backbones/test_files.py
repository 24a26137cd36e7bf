"""Files, copies and number formats of native backbones."""

import copy
import pickle
from pathlib import Path

import torch
from backbone_rows import Row, run
from oracle import same


class TestFiles:
    def test_round_trip(self, row: Row, tmp_path: Path) -> None:
        model, x = row.build(out_indices=[-3, -1], size_policy="pad"), row.pixels()
        model.save_pretrained(tmp_path)
        loaded, info = row.backbone.from_pretrained(tmp_path, output_loading_info=True)
        lists = ("missing_keys", "unexpected_keys", "mismatched_keys", "adapted_keys")
        assert info == {**{name: [] for name in lists}, "explained": {}}
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
        model, x = row.build(), row.pixels()
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
        whole, x = row.build(), row.pixels()
        whole.save_pretrained(tmp_path)
        model = row.backbone.from_pretrained(tmp_path, dtype="bfloat16")
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        maps = run(model, x.bfloat16()).feature_maps
        assert {m.dtype for m in maps} == {torch.bfloat16}
        exact = run(whole, x).feature_maps
        assert [m.shape for m in maps] == [m.shape for m in exact]
        for name, here, there in zip(model.out_features, maps, exact, strict=True):
            assert here.isfinite().all(), name
            error = (here.float() - there).abs().mean() / there.abs().mean()
            assert error < 0.1, f"{name} is off by {error:.2g} of the mean: 8 bits of a product in each layer"
