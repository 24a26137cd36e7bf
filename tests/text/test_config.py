"""Configurations of text models: common names, transformers' defaults, and what cannot be built."""

from pathlib import Path

import pytest
import transformers
from text_cases import BERT, DISTILBERT, Case

from vertebra import AutoConfig, AutoModel, BertConfig, BertModel, DistilBertConfig, DistilBertForQuestionAnswering
from vertebra.text.config import TextConfig

BOTH = pytest.mark.parametrize("cls", [BertConfig, DistilBertConfig])
COMMON = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
    "initializer_range": 0.1,
}


@BOTH
class TestCommonNames:
    def test_as_keywords(self, cls: type[TextConfig]) -> None:
        config = cls(**COMMON)
        assert {name: getattr(config, name) for name in COMMON} == COMMON

    def test_as_overrides_of_a_file(self, cls: type[TextConfig], tmp_path: Path) -> None:
        cls().save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path, **COMMON)
        assert {name: getattr(config, name) for name in COMMON} == COMMON
        config.save_pretrained(tmp_path)
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert {name: getattr(theirs, name) for name in COMMON} == COMMON

    def test_as_attributes(self, cls: type[TextConfig]) -> None:
        config = cls()
        for name, value in COMMON.items():
            setattr(config, name, value)
        model = AutoModel.from_config(config)
        assert model.get_input_embeddings().weight.shape == (50, 24)
        assert [layer.heads for layer in model.encoder_layers.layer] == [4, 4, 4]

    def test_defaults_are_transformers(self, cls: type[TextConfig]) -> None:
        theirs = getattr(transformers, cls.__name__)()
        here = cls()
        ignored = {"transformers_version", "_name_or_path", "is_encoder_decoder", "chunk_size_feed_forward"}
        for name, value in theirs.to_dict().items():
            if name not in ignored | {"id2label", "label2id"}:
                assert getattr(here, name) == value, name
        assert here.num_labels == theirs.num_labels

    def test_files_both_ways(self, cls: type[TextConfig], tmp_path: Path) -> None:
        theirs = getattr(transformers, cls.__name__)(**COMMON, num_labels=3)
        theirs.save_pretrained(tmp_path / "theirs")
        ours = cls.from_pretrained(tmp_path / "theirs")
        ours.save_pretrained(tmp_path / "ours")
        again = type(theirs).from_pretrained(tmp_path / "ours")
        assert again.to_dict() == {**type(theirs).from_pretrained(tmp_path / "theirs").to_dict()}
        assert cls.from_pretrained(tmp_path / "ours") == ours


def test_distilbert_s_own_names() -> None:
    config = DistilBertConfig(n_heads=6, dim=36)
    assert (config.num_attention_heads, config.hidden_size) == (6, 36)
    config.hidden_size = 48
    assert config.dim == 48
    assert "hidden_size" not in config.to_dict()
    with pytest.raises(TypeError, match=r"BertConfig has no key 'n_heads'\. .*num_attention_heads"):
        BertConfig(n_heads=6)


def test_positional_arguments_are_transformers() -> None:
    assert BertConfig(50, 24, 3, 4, 30).intermediate_size == 30
    assert DistilBertConfig(50, 20, True, 3, 4, 24).dim == 24


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"is_decoder": True},
            r"BertConfig has is_decoder=True, for a model that continues texts; those of vertebra read whole",
        ),
        ({"add_cross_attention": True}, r"BertConfig has add_cross_attention=True"),
        ({"position_embedding_type": "relative_key"}, r"position_embedding_type='relative_key' is not known"),
        (
            {"num_attention_heads": 5},
            r"num_attention_heads=5 attention heads cannot share hidden_size=12 channels equally",
        ),
        ({"num_attention_heads": 0}, r"num_attention_heads=0 of BertConfig must be a whole number of at least 1\."),
        ({"num_hidden_layers": -1}, r"num_hidden_layers=-1 of BertConfig must be a whole number of at least 0"),
        ({"num_hidden_layers": 2.5}, r"num_hidden_layers=2\.5 of BertConfig must be a whole number"),
        ({"hidden_size": "12"}, r"hidden_size='12' of BertConfig must be a whole number of at least 1"),
        ({"hidden_size": 0}, r"hidden_size=0 of BertConfig must be"),
        ({"vocab_size": True}, r"vocab_size=True of BertConfig must be"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings=0 of BertConfig must be"),
        ({"intermediate_size": 0}, r"intermediate_size=0 of BertConfig must be"),
        ({"type_vocab_size": -1}, r"type_vocab_size=-1 of BertConfig must be a whole number of at least 0"),
        ({"pruned_heads": [1]}, r"Heads to prune are given as lists by layer, e\.g\. \{0: \[1, 2\]\}; got \[1\]"),
        ({"pad_token_id": 31}, r"pad_token_id=31 is no token: vocab_size=31 has 0 to 30\."),
        ({"hidden_act": "gelo"}, r"hidden_act='gelo' is not known\. Did you mean 'gelu'"),
    ],
)
def test_what_cannot_be_built(keys: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BertModel(BertConfig(**{**BERT, **keys}))


def test_errors_use_the_family_s_names() -> None:
    with pytest.raises(
        ValueError, match=r"n_heads=5 attention heads cannot share dim=12 channels equally; choose a divisor of 12"
    ):
        AutoModel.from_config(DistilBertConfig(**{**DISTILBERT, "n_heads": 5}))
    with pytest.raises(ValueError, match=r"n_layers=-1 of DistilBertConfig must be a whole number of at least 0"):
        AutoModel.from_config(DistilBertConfig(**{**DISTILBERT, "n_layers": -1}))
    with pytest.raises(ValueError, match=r"hidden_dim=0 of DistilBertConfig must be"):
        AutoModel.from_config(DistilBertConfig(**{**DISTILBERT, "hidden_dim": 0}))
    with pytest.raises(ValueError, match=r"activation='swich' is not known\. Did you mean 'swish'"):
        AutoModel.from_config(DistilBertConfig(**DISTILBERT, activation="swich"))
    with pytest.raises(ValueError, match=r"num_labels=4: an answer has a start and an end"):
        DistilBertForQuestionAnswering(DistilBertConfig(**DISTILBERT))


def test_decoder_checkpoints_are_readable_as_configurations(tmp_path: Path) -> None:
    transformers.BertConfig(**BERT, is_decoder=True).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.is_decoder
    AutoModel.from_config(AutoConfig.from_pretrained(tmp_path, is_decoder=False))


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_weights_start_as_in_transformers(family: str) -> None:
    own = {"hidden_size": 96} if family == "Bert" else {"dim": 96, "sinusoidal_pos_embds": True}
    case = Case(family, "ForSequenceClassification", {**own, "vocab_size": 400, "initializer_range": 0.05})
    ours, theirs = case.ours(), case.theirs()
    for name, parameter in theirs.named_parameters():
        mine = ours.get_parameter(name)
        if name.endswith("position_embeddings.weight") and family == "DistilBert":
            assert (mine - parameter).abs().max() < 1e-6
        elif parameter.unique().numel() < 3:
            assert (mine == parameter).all(), name
        else:
            assert abs(mine.std() / parameter.std() - 1) < 0.15, name
    assert ours.get_input_embeddings().weight[0].abs().max() == 0
