"""`from_pretrained` and `save_pretrained`: every keyword, every refusal, and what became of every key."""

import json
import logging
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from hub_server import HubServer
from oracle import perturb, same
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vertebra.backbones.resnet import ResNetBackbone, ResNetConfig, ResNetForImageClassification, ResNetModel
from vertebra.backbones.swin import SwinBackbone, SwinConfig, SwinForImageClassification, SwinModel
from vertebra.config import PreTrainedConfig
from vertebra.loading import match_keys
from vertebra.model import PreTrainedModel, parse_dtype

RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ResNet classifier with five classes."""
    perturb(ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=5))).save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


@pytest.fixture
def swin(tmp_path: Path) -> Path:
    """A Swin classifier in half precision."""
    model = perturb(SwinForImageClassification(SwinConfig(**SWIN))).half()
    model.save_pretrained(tmp_path / "swin")
    return tmp_path / "swin"


def edit(folder: Path, change: Any) -> None:
    """Pass the tensors of a folder through `change` and write them back."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(change(tensors), folder / "model.safetensors")


def assert_ready(model: nn.Module) -> None:
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_meta for tensor in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert not any(module.training for module in model.modules())


class TestKeywords:
    def test_the_state_after_loading(self, folder: Path, hub: HubServer) -> None:
        model = ResNetForImageClassification.from_pretrained(folder)
        assert_ready(model)
        assert model.name_or_path == str(folder)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert hub.requests == []

    def test_no_request_for_a_local_path_that_is_not_there(self, tmp_path: Path, hub: HubServer) -> None:
        for gone in (tmp_path / "gone", "./gone", "~/gone/gone", "a/b/c"):
            with pytest.raises(
                OSError, match=r"is not an existing folder, and a hub repository is named 'organisation/name'\.$"
            ):
                ResNetBackbone.from_pretrained(gone)
        file = tmp_path / "model.safetensors"
        file.touch()
        text = f"'{file}' is a file; give the folder that holds it: '{tmp_path}'."
        with pytest.raises(OSError, match=re.escape(text)):
            ResNetBackbone.from_pretrained(file)
        assert hub.requests == []

    def test_relative_folders(self, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        for name in ("resnet", "./resnet", Path("resnet")):
            assert ResNetModel.from_pretrained(name).config.depths == [1, 1]
        assert hub.requests == []

    def test_keys_of_the_configuration_win_over_the_file(self, folder: Path) -> None:
        model = ResNetBackbone.from_pretrained(folder, out_indices=(0, 1), prune=False, size_policy="pad")
        assert model.out_features == ["stem", "stage1"]
        assert (model.config.prune, model.config.size_policy) == (False, "pad")

    def test_a_configuration_of_one_s_own(self, folder: Path, tmp_path: Path) -> None:
        config = ResNetConfig(**RESNET, out_indices=[1], num_labels=5)
        (folder / "config.json").unlink()
        model = ResNetBackbone.from_pretrained(folder, config=config)
        assert model.out_features == ["stage1"]
        model = ResNetBackbone.from_pretrained(folder, config=config, out_features=["stem"])
        assert model.out_features == ["stem"]
        assert config.out_features == ["stage1"]
        config.save_pretrained(tmp_path / "config")
        for place in (tmp_path / "config", tmp_path / "config" / "config.json"):
            assert ResNetBackbone.from_pretrained(folder, config=place).out_features == ["stage1"]

    @pytest.mark.parametrize("given", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
    @pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
    def test_dtype(self, folder: Path, given: Any, keyword: str) -> None:
        model = ResNetModel.from_pretrained(folder, **{keyword: given})
        assert model.dtype == torch.bfloat16
        kinds = {tensor.dtype for tensor in model.state_dict().values()}
        assert kinds == {torch.bfloat16, torch.int64}
        expected = load_file(folder / "model.safetensors")
        same(
            model.embedder.embedder.convolution.weight,
            expected["resnet.embedder.embedder.convolution.weight"].bfloat16(),
        )

    @pytest.mark.parametrize("given", [None, "auto"])
    def test_dtype_of_the_file(self, swin: Path, given: Any) -> None:
        """Also of norms that the file does not hold: a mixture would not run."""
        model = SwinBackbone.from_pretrained(swin, dtype=given, out_indices=[0, 2])
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
        maps = model(torch.randn(1, 3, 24, 24).half()).feature_maps
        assert {m.dtype for m in maps} == {torch.float16}

    def test_dtype_wins_over_the_file(self, swin: Path) -> None:
        model = SwinBackbone.from_pretrained(swin, dtype="float32")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        model.save_pretrained(swin / "again")
        assert json.loads((swin / "again" / "config.json").read_text())["dtype"] == "float32"

    @pytest.mark.parametrize("bad", ["half-ish", "int8", torch.int64])
    def test_dtypes_that_are_none(self, folder: Path, bad: Any) -> None:
        text = f"dtype={bad!r} must be a floating-point dtype such as torch.bfloat16, 'float16' or 'auto'."
        with pytest.raises(ValueError, match=re.escape(text)):
            ResNetModel.from_pretrained(folder, dtype=bad)
        assert parse_dtype("torch.float64") is torch.float64

    def test_subfolder_and_variant(self, folder: Path, tmp_path: Path) -> None:
        model = ResNetModel.from_pretrained(folder)
        model.save_pretrained(tmp_path / "outer" / "inner", variant="ema")
        loaded = ResNetModel.from_pretrained(tmp_path / "outer", subfolder="inner", variant="ema")
        same(loaded.embedder.embedder.convolution.weight, model.embedder.embedder.convolution.weight)
        with pytest.raises(OSError, match=re.escape(f"The folder '{tmp_path / 'outer' / 'inner'}' holds no weights")):
            ResNetModel.from_pretrained(tmp_path / "outer", subfolder="inner")

    def test_key_mapping(self, folder: Path) -> None:
        expected = load_file(folder / "model.safetensors")
        edit(folder, lambda tensors: {name.replace("resnet.", "module.net."): t for name, t in tensors.items()})
        with pytest.raises(RuntimeError, match="The checkpoint lacks"):
            ResNetForImageClassification.from_pretrained(folder)
        mapping = {r"^module\.net\.": "resnet."}
        model, info = ResNetForImageClassification.from_pretrained(
            folder, key_mapping=mapping, output_loading_info=True
        )
        assert info["missing_keys"] == info["unexpected_keys"] == []
        for name, tensor in model.state_dict().items():
            same(tensor, expected[name], name)

    def test_old_names_of_norms(self, folder: Path) -> None:
        def older(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            names = {name: re.sub(r"normalization\.weight$", "normalization.gamma", name) for name in tensors}
            return {
                re.sub(r"normalization\.bias$", "normalization.beta", names[name]): t for name, t in tensors.items()
            }

        expected = load_file(folder / "model.safetensors")
        edit(folder, older)
        model, info = ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert info["missing_keys"] == info["unexpected_keys"] == []
        for name, tensor in model.state_dict().items():
            same(tensor, expected[name], name)

    def test_attention_implementations(self, swin: Path) -> None:
        for name in ("sdpa", "eager", None):
            SwinModel.from_pretrained(swin, attn_implementation=name)
        text = r"^attn_implementation='flash' must be one of sdpa, eager\."
        with pytest.raises(ValueError, match=text):
            SwinModel.from_pretrained(swin, attn_implementation="flash")
        with pytest.raises(ValueError, match=text):
            SwinModel.from_config(SwinConfig(**SWIN), attn_implementation="flash")

    def test_a_keyword_nobody_takes(self, folder: Path) -> None:
        text = r"^ResNetBackbone\.from_pretrained has no argument 'out_indeces'\. Did you mean 'out_indices'"
        with pytest.raises(TypeError, match=text):
            ResNetBackbone.from_pretrained(folder, out_indeces=[1])
        with pytest.raises(TypeError, match=text):
            ResNetBackbone.from_pretrained(folder, config=ResNetConfig(**RESNET), out_indeces=[1])

    def test_code_of_a_checkpoint_is_refused(self, folder: Path) -> None:
        text = r"^trust_remote_code=True is refused: vertebra runs no code from a checkpoint\.$"
        with pytest.raises(ValueError, match=text):
            ResNetModel.from_pretrained(folder, trust_remote_code=True)
        assert ResNetModel.from_pretrained(folder, trust_remote_code=False).training is False

    def test_keywords_of_the_constructor(self, tmp_path: Path) -> None:
        class Config(PreTrainedConfig):
            model_type = "own"
            width: int = 3

        class Own(PreTrainedModel):
            config_class = Config

            def __init__(self, config: Config, scale: int = 1, *, shift: int = 0) -> None:
                super().__init__(config)
                self.layer = nn.Linear(config.width * scale + shift, 2)
                self.post_init()

        Own(Config(), 2, shift=1).save_pretrained(tmp_path)
        model = Own.from_pretrained(tmp_path, 2, shift=1)
        assert model.layer.in_features == 7
        assert Own.from_config(Config(width=4), scale=3).layer.in_features == 12
        with pytest.raises(TypeError, match=r"^Own\.from_pretrained has no argument 'sclae'\. Did you mean 'scale'\?$"):
            Own.from_pretrained(tmp_path, sclae=2)

    def test_from_config(self) -> None:
        assert ResNetModel.from_config(ResNetConfig(**RESNET), dtype="bfloat16").dtype == torch.bfloat16
        assert ResNetModel._from_config(ResNetConfig(**RESNET)).dtype == torch.float32

    def test_a_constructor_takes_a_configuration(self, folder: Path) -> None:
        text = (
            "ResNetModel(config) takes a configuration, got str. For a checkpoint use ResNetModel.from_pretrained(…)."
        )
        with pytest.raises(TypeError, match=re.escape(text)):
            ResNetModel(str(folder))


class TestKeys:
    def test_everything_arrives(self, folder: Path) -> None:
        model, info = ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
        lists = ("missing_keys", "unexpected_keys", "mismatched_keys", "adapted_keys")
        assert info == {**{name: [] for name in lists}, "explained": {}}
        expected = load_file(folder / "model.safetensors")
        assert model.state_dict().keys() == expected.keys()
        for name, tensor in model.state_dict().items():
            same(tensor, expected[name], name)

    def test_what_the_architecture_explains(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, logger="vertebra")
        _, info = ResNetBackbone.from_pretrained(folder, out_indices=[1], output_loading_info=True)
        assert info["missing_keys"] == []
        reasons = {info["explained"][key] for key in info["unexpected_keys"] if "stages.1" in key}
        assert reasons == {"pruned: after the last selected stage"}
        assert info["explained"]["classifier.1.weight"] == "a classification head"
        assert caplog.records == []

    def test_a_new_head(self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        ResNetModel.from_pretrained(folder).save_pretrained(tmp_path / "base")
        caplog.set_level(logging.INFO, logger="vertebra")
        model, info = ResNetForImageClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
        assert info["missing_keys"] == ["classifier.1.weight", "classifier.1.bias"]
        assert set(info["explained"].values()) == {"the head is trained on the new task"}
        assert_ready(model)
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        assert record.getMessage() == (
            "ResNetForImageClassification: initialised anew.\n"
            "  missing     classifier.1.weight  the head is trained on the new task\n"
            "  missing     classifier.1.bias    the head is trained on the new task"
        )

    def test_missing_keys_that_nothing_explains(self, folder: Path) -> None:
        gone = "resnet.embedder.embedder.convolution.weight"
        edit(folder, lambda tensors: {name: t for name, t in tensors.items() if name != gone})
        text = (
            "The checkpoint lacks 1 tensors that ResNetForImageClassification needs; it is of another architecture, was "
            f"saved from a pruned backbone, or the configuration does not fit it.\n  missing     {gone}"
        )
        with pytest.raises(RuntimeError, match="^" + re.escape(text) + "$"):
            ResNetForImageClassification.from_pretrained(folder)

    def test_another_architecture(self, folder: Path) -> None:
        with pytest.raises(
            RuntimeError, match=r"^The checkpoint lacks \d+ tensors that SwinModel needs; it is of another"
        ):
            SwinModel.from_pretrained(folder, config=SwinConfig(**SWIN))

    def test_unexpected_keys_that_nothing_explains(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        edit(folder, lambda tensors: {**tensors, "resnet.neck.weight": torch.ones(3)})
        model, info = ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert info["unexpected_keys"] == ["resnet.neck.weight"]
        assert info["explained"] == {}
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == (
            "ResNetForImageClassification: 1 keys of the checkpoint need a look.\n  unexpected  resnet.neck.weight"
        )
        assert_ready(model)

    def test_shapes_that_differ(self, folder: Path) -> None:
        text = (
            "Shapes in the checkpoint differ from ResNetForImageClassification's. Correct the configuration, or pass "
            "ignore_mismatched_sizes=True to initialise these anew.\n"
            "  mismatched  classifier.1.weight  file (5, 16), model (9, 16)\n"
            "  mismatched  classifier.1.bias    file (5,), model (9,)"
        )
        with pytest.raises(RuntimeError, match="^" + re.escape(text) + "$"):
            ResNetForImageClassification.from_pretrained(folder, num_labels=9)
        model, info = ResNetForImageClassification.from_pretrained(
            folder, num_labels=9, ignore_mismatched_sizes=True, output_loading_info=True
        )
        assert info["mismatched_keys"] == [("classifier.1.weight", (5, 16), (9, 16)), ("classifier.1.bias", (5,), (9,))]
        assert model.classifier[1].weight.shape == (9, 16)
        assert_ready(model)
        expected = load_file(folder / "model.safetensors")
        for name, tensor in model.resnet.state_dict().items():
            same(tensor, expected[f"resnet.{name}"], name)

    def test_new_weights_are_the_seed_s(self, folder: Path) -> None:
        heads = []
        for _ in range(2):
            torch.manual_seed(5)
            model = ResNetForImageClassification.from_pretrained(folder, num_labels=9, ignore_mismatched_sizes=True)
            heads.append(model.classifier[1].weight)
        same(heads[0], heads[1])
        assert heads[0].std() > 0.01

    def test_two_spellings_of_one_tensor(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The model's own name wins, and the other one is not dropped in silence."""
        name = "embedder.embedder.convolution.weight"
        expected = load_file(folder / "model.safetensors")[f"resnet.{name}"]
        edit(folder, lambda tensors: {**tensors, name: tensors[f"resnet.{name}"] * 3})
        model, info = ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
        same(model.get_parameter(f"resnet.{name}").detach(), expected)
        assert info["unexpected_keys"] == [name]
        assert info["explained"] == {}
        assert f"unexpected  {name}" in caplog.text
        base = ResNetModel.from_pretrained(folder)
        same(base.get_parameter(name).detach(), expected * 3)

    def test_a_parameter_that_nothing_initialises(self, tmp_path: Path) -> None:
        """It would otherwise hold whatever was in memory."""

        class Config(PreTrainedConfig):
            model_type = "own"

        class Scaled(PreTrainedModel):
            config_class = Config
            explained_missing: ClassVar[dict[str, str]] = {r"^scale$": "new in this version"}

            def __init__(self, config: Config) -> None:
                super().__init__(config)
                self.layer, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(500))
                self.post_init()

        class Initialised(Scaled):
            def _init_weights(self, module: nn.Module) -> None:
                super()._init_weights(module)
                if module is self:
                    nn.init.constant_(self.scale, 3.0)

        Scaled(Config()).save_pretrained(tmp_path)
        edit(tmp_path, lambda tensors: {name: t for name, t in tensors.items() if name != "scale"})
        text = (
            "Scaled gives 'scale' its initial value in the constructor alone, which a load does not keep, and the checkpoint "
            "lacks it. Set it in a method reset_parameters(), or in the model's _init_weights(module)."
        )
        with pytest.raises(RuntimeError, match="^" + re.escape(text) + "$"):
            Scaled.from_pretrained(tmp_path)
        same(Initialised.from_pretrained(tmp_path).scale.detach(), torch.full((500,), 3.0))

    def test_matching_of_names(self) -> None:
        assert match_keys(
            ["net.a", "b", "x.c", "d.gamma"], ["a", "net.b", "y.c", "d.weight"], "net", [(r"^x\.", "y.")]
        ) == {
            "net.a": "a",
            "b": "net.b",
            "x.c": "y.c",
            "d.gamma": "d.weight",
        }
        # a name that the model has is never renamed
        assert match_keys(["x.gamma"], ["x.gamma", "x.weight"], "net") == {"x.gamma": "x.gamma"}


class TestBuffers:
    def test_those_no_file_holds_are_computed(self, tmp_path: Path) -> None:
        class Config(PreTrainedConfig):
            model_type = "own"

        class Table(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("steps", torch.arange(4.0), persistent=False)

        class Rebuilt(Table):
            def init_non_persistent_buffers(self) -> None:
                self.steps.copy_(torch.arange(4.0))

        def model_of(table: type[Table]) -> type[PreTrainedModel]:
            class Own(PreTrainedModel):
                config_class = Config

                def __init__(self, config: Config) -> None:
                    super().__init__(config)
                    self.layer, self.table = nn.Linear(2, 2), table()
                    self.post_init()

            return Own

        good, bad = model_of(Rebuilt), model_of(Table)
        good(Config()).save_pretrained(tmp_path)
        same(good.from_pretrained(tmp_path).table.steps, torch.arange(4.0))
        text = (
            "Table holds non-persistent buffers (steps) that a checkpoint cannot restore. Give it a method "
            "init_non_persistent_buffers() that computes them."
        )
        with pytest.raises(RuntimeError, match=re.escape(text)):
            bad.from_pretrained(tmp_path)


class TestSaving:
    def test_what_is_written(self, folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        assert content["architectures"] == ["ResNetForImageClassification"]
        assert content["dtype"] == "float32"
        assert content["model_type"] == "resnet"
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]

    def test_transformers_loads_shards_and_variants(self, folder: Path, tmp_path: Path) -> None:
        model = ResNetModel.from_pretrained(folder)
        model.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
        model.save_pretrained(tmp_path / "variant", variant="ema")
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
        x = torch.randn(1, 3, 40, 40)
        with torch.no_grad():
            expected = model(x).last_hidden_state
            for name, kwargs in (("shards", {}), ("variant", {"variant": "ema"})):
                theirs = transformers.ResNetModel.from_pretrained(tmp_path / name, **kwargs).eval()
                torch.testing.assert_close(theirs(x).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
                ours = ResNetModel.from_pretrained(tmp_path / name, **kwargs)
                same(ours(x).last_hidden_state, expected)

    def test_over_the_checkpoint_it_was_loaded_from(self, folder: Path) -> None:
        """Loaded tensors are mapped from the file that is replaced."""
        before = load_file(folder / "model.safetensors")
        model = ResNetForImageClassification.from_pretrained(folder)
        model.save_pretrained(folder, max_shard_size="2KB")
        model.save_pretrained(folder)
        after = ResNetForImageClassification.from_pretrained(folder)
        for name, tensor in after.state_dict().items():
            same(tensor, before[name], name)

    def test_a_state_dict_of_one_s_own(self, folder: Path, tmp_path: Path) -> None:
        model = ResNetModel.from_pretrained(folder)
        state = {name: tensor * 2 for name, tensor in model.state_dict().items()}
        model.save_pretrained(tmp_path / "twice", state_dict=state)
        same(load_file(tmp_path / "twice" / "model.safetensors")["embedder.embedder.convolution.weight"],
             2 * model.embedder.embedder.convolution.weight.detach())  # fmt: skip

    def test_a_file_is_no_folder(self, folder: Path) -> None:
        path = folder / "config.json"
        with pytest.raises(NotADirectoryError, match=re.escape(f"'{path}' is a file; save_pretrained takes a folder.")):
            ResNetModel(ResNetConfig(**RESNET)).save_pretrained(path)


class TestClassification:
    def test_labels_that_do_not_fit(self) -> None:
        model, x = ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=3)).eval(), torch.randn(2, 3, 32, 32)
        text = "labels of shape (3,) and dtype torch.int64 do not fit logits of shape (2, 3) for problem_type "
        with pytest.raises(ValueError, match=re.escape(text + "'single_label_classification'")):
            model(x, labels=torch.tensor([0, 1, 2]))
        with pytest.raises(
            ValueError, match=r"do not fit logits of shape \(2, 3\) for problem_type 'multi_label_classification'"
        ):
            model(x, labels=torch.tensor([0.0, 1.0]))
        model.config.problem_type = "regression"
        with pytest.raises(ValueError, match="for problem_type 'regression'"):
            model(x, labels=torch.tensor([0.0, 1.0]))
        model.config.problem_type = "ranking"
        with pytest.raises(
            ValueError, match=r"^problem_type='ranking' must be 'regression', 'single_label_classification', "
        ):
            model(x, labels=torch.tensor([0, 1]))

    def test_the_problem_type_is_not_stored(self) -> None:
        model, x = ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=3)).eval(), torch.randn(2, 3, 32, 32)
        model(x, labels=torch.tensor([0, 2]))
        assert model.config.problem_type is None
        assert model(x, labels=torch.rand(2, 3)).loss.ndim == 0

    def test_without_labels(self) -> None:
        model, x = ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=3)).eval(), torch.randn(2, 3, 32, 32)
        assert list(model(x)) == ["logits"]
        (logits,) = model(x, return_dict=False)
        assert logits.shape == (2, 3)
