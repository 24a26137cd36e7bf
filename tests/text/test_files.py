"""Files of text models: of transformers 4, of BERT's first years, of another head, with weights that are tied or apart."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from oracle import close, perturb, same, save_with_transformers, saved_keys
from safetensors.torch import load_file, save_file
from text_cases import BERT, CASES, DISTILBERT, Case, labels_of

from vertebra import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DistilBertForMaskedLM,
    DistilBertModel,
)

V4 = {
    "bert_pretraining": (AutoModelForPreTraining, BertForPreTraining),
    "bert_untied": (AutoModelForPreTraining, BertForPreTraining),
    "bert_pruned": (AutoModelForSequenceClassification, BertForSequenceClassification),
    "distilbert_masked": (AutoModelForMaskedLM, DistilBertForMaskedLM),
}
SOURCES = ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")
PAIRS = [(s, t) for s in CASES for t in CASES if s.family == t.family and s.task in SOURCES]


@pytest.mark.parametrize("name", V4)
def test_files_of_version_4(name: str, v4: Path, tmp_path: Path) -> None:
    auto, cls = V4[name]
    expected = load_file(v4 / name / "expected.safetensors")
    given = ("input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label")
    inputs = {key: expected.pop(key) for key in given if key in expected}
    model, info = auto.from_pretrained(v4 / name, output_loading_info=True)
    assert type(model) is cls
    assert info["missing_keys"] == info["mismatched_keys"] == []
    twin = {"vocab_projector.weight": "tied: distilbert.embeddings.word_embeddings.weight"}
    assert info["explained"] == (twin if name == "distilbert_masked" else {})
    assert info["unexpected_keys"] == list(info["explained"])
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    for key, tensor in expected.items():
        field, _, index = key.partition(".")
        close(output[field][int(index)] if index else output[field], tensor, name=key)
    assert {key.partition(".")[0] for key in expected} == set(output)

    model.save_pretrained(tmp_path)
    again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    same(tuple(again.state_dict().values()), tuple(model.state_dict().values()))
    if name != "bert_untied":  # version 4 leaves the second name of the bias out, and version 5 then starts it at zero
        before = (
            load_file(v4 / name / "model.safetensors")
            if name != "distilbert_masked"
            else torch.load(v4 / name / "pytorch_model.bin", weights_only=True)
        )
        assert saved_keys(tmp_path) == set(before) - {"vocab_projector.weight"}


def test_version_4_s_pruned_heads(v4: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(v4 / "bert_pruned")
    assert model.config.pruned_heads == {0: [1, 2], 1: [0]}
    assert [layer.heads for layer in model.bert.encoder.layer] == [1, 2]
    assert model.config.labels == {0: "cat", 1: "dog", 2: "vertebra"}


class TestOldSpellings:
    @pytest.fixture
    def file(self, tmp_path: Path) -> tuple[Any, Path]:
        model = save_with_transformers(
            transformers.BertForPreTraining(transformers.BertConfig(**BERT)), tmp_path / "file"
        )
        return model, tmp_path / "file" / "model.safetensors"

    def rewrite(self, path: Path, change: Any) -> None:
        tensors = {}
        for name, tensor in load_file(path).items():
            tensors |= change(name, tensor)
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

    def check(self, expected: Any, path: Path, explained: set[str]) -> None:
        model, info = BertForPreTraining.from_pretrained(path.parent, output_loading_info=True)
        assert info["missing_keys"] == info["mismatched_keys"] == []
        assert set(info["unexpected_keys"]) == set(info["explained"]) == explained
        ids = torch.randint(31, (2, 5))
        with torch.no_grad():
            close(model(ids).to_tuple(), expected(ids).to_tuple())

    def test_gamma_and_beta(self, file: tuple[Any, Path]) -> None:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

        def change(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
            for here, there in old.items():
                name = name.replace(here, there)
            return {name: tensor}

        self.rewrite(file[1], change)
        self.check(*file, explained=set())

    def test_tensors_under_both_names(self, file: tuple[Any, Path]) -> None:
        """As files were written that did not leave out what is tied, with a table of positions beside."""
        twins = {
            "cls.predictions.bias": "cls.predictions.decoder.bias",
            "bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight",
        }
        extra = {"bert.embeddings.position_ids": torch.arange(9)[None]}
        self.rewrite(file[1], lambda name, t: {name: t, **({twins[name]: t} if name in twins else {}), **extra})
        self.check(*file, {"cls.predictions.bias", "cls.predictions.decoder.weight", "bert.embeddings.position_ids"})

    def test_tied_tensors_under_the_other_name_alone(self, file: tuple[Any, Path]) -> None:
        twins = {
            "cls.predictions.bias": "cls.predictions.decoder.bias",
            "bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight",
        }
        self.rewrite(file[1], lambda name, t: {twins.get(name, name): t})
        self.check(*file, explained=set())

    @pytest.mark.parametrize("prefix", ["", "bert."])
    def test_a_base_model_without_and_with_its_prefix(self, prefix: str, tmp_path: Path) -> None:
        model = save_with_transformers(transformers.BertModel(transformers.BertConfig(**BERT)), tmp_path)
        self.rewrite(tmp_path / "model.safetensors", lambda name, t: {prefix + name: t})
        base, info = BertModel.from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == info["unexpected_keys"] == []
        ids = torch.randint(31, (2, 5))
        with torch.no_grad():
            close(base(ids).to_tuple(), model(ids).to_tuple()[:2])


class TestOtherHeads:
    @pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
    def test_a_file_of_one_class_in_another(self, source: Case, target: Case, tmp_path: Path) -> None:
        """The encoder comes through; what is new and what is not read belongs to heads, and is accounted for."""
        theirs = save_with_transformers(source.theirs(), tmp_path)
        labels = {"num_labels": target.keys["num_labels"]} if source.task != target.task else {}
        other = source.task != target.task
        ours, info = target.cls.from_pretrained(
            tmp_path, output_loading_info=True, ignore_mismatched_sizes=other, **labels
        )
        odd = {*info["missing_keys"], *info["unexpected_keys"]}
        heads = ("cls", "classifier", "qa_outputs", "pooler", "bert.pooler", "vocab_", "pre_classifier")
        assert odd == set(info["explained"])
        assert all(name.startswith(heads) for name in odd)
        assert all(name.startswith("classifier") for name, _, _ in info["mismatched_keys"])
        prefix = ours.base_model_prefix
        base = getattr(theirs, prefix, theirs)
        ids = torch.randint(31, (2, 5))
        with torch.no_grad():
            close(ours.base_model(ids).last_hidden_state, base(ids).last_hidden_state)
        if not other:
            assert odd == set()
        output = ours(**target.inputs(), **labels_of(target.task))
        assert all(torch.isfinite(value).all() for value in output.values())

    def test_what_is_new_is_told_and_starts_as_in_training(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = transformers.BertConfig(**{**BERT, "hidden_size": 48})
        save_with_transformers(transformers.BertModel(config, add_pooling_layer=False), tmp_path)
        with caplog.at_level(logging.INFO, logger="vertebra"):
            model, info = BertForSequenceClassification.from_pretrained(
                tmp_path, num_labels=50, output_loading_info=True
            )
        assert info["explained"] == {
            "classifier.weight": "the head is trained on the new task",
            "classifier.bias": "the head is trained on the new task",
            "bert.pooler.dense.weight": "the pooler is trained on the new task",
            "bert.pooler.dense.bias": "the pooler is trained on the new task",
        }
        assert "BertForSequenceClassification: initialised anew" in caplog.text
        assert model.classifier.bias.abs().max() == 0
        assert abs(model.classifier.weight.std().item() - 0.02) < 0.002

    def test_a_file_of_another_architecture_is_refused(self, tmp_path: Path) -> None:
        transformers.DistilBertModel(transformers.DistilBertConfig(**DISTILBERT)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="has model_type 'distilbert'; BertConfig reads 'bert'"):
            BertModel.from_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match=r"The checkpoint lacks 33 tensors that BertModel needs"):
            BertModel.from_pretrained(tmp_path, config=BertConfig(**BERT))


class TestTiedWeights:
    @pytest.mark.parametrize("task", ["ForMaskedLM", "ForPreTraining"])
    def test_bert_apart(self, task: str, tmp_path: Path) -> None:
        """The bias has two names in memory and in files; transformers scores with the second, and so do we."""
        theirs = save_with_transformers(Case("Bert", task).theirs(tie_word_embeddings=False), tmp_path / "theirs")
        first, second = theirs.cls.predictions.bias, theirs.cls.predictions.decoder.bias
        assert not torch.equal(first, second)
        ours, info = Case("Bert", task).cls.from_pretrained(tmp_path / "theirs", output_loading_info=True)
        assert (info["missing_keys"], info["unexpected_keys"]) == ([], ["cls.predictions.bias"])
        assert info["explained"] == {"cls.predictions.bias": "tied: cls.predictions.decoder.bias"}
        ids = torch.randint(31, (2, 5))
        with torch.no_grad():
            close(ours(ids)[0], theirs(ids)[0])
        ours.save_pretrained(tmp_path / "ours")
        assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path / "theirs")
        back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert {name: set(keys) for name, keys in info.items() if keys} == {}
        with torch.no_grad():
            close(back(ids)[0], theirs(ids)[0])

    def test_distilbert_apart(self, tmp_path: Path) -> None:
        case = Case("DistilBert", "ForMaskedLM")
        theirs = save_with_transformers(case.theirs(tie_word_embeddings=False), tmp_path / "theirs")
        ours = case.cls.from_pretrained(tmp_path / "theirs")
        assert ours.vocab_projector.weight is not ours.distilbert.embeddings.word_embeddings.weight
        ours.save_pretrained(tmp_path / "ours")
        assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path / "theirs")
        ids = torch.randint(31, (2, 5))
        with torch.no_grad():
            close(type(theirs).from_pretrained(tmp_path / "ours")(ids)[0], ours(ids)[0])

    @pytest.mark.parametrize("family", ["Bert", "DistilBert"])
    def test_they_stay_one(self, family: str, tmp_path: Path) -> None:
        case = Case(family, "ForMaskedLM")
        built = case.ours()
        built.save_pretrained(tmp_path)
        for model in (built, case.cls.from_pretrained(tmp_path), built.to(torch.bfloat16), case.ours().double()):
            words, scoring = model.get_input_embeddings(), model.get_output_embeddings()
            assert words.weight is scoring.weight
            assert (
                sum(name.endswith(("decoder.weight", "projector.weight")) for name, _ in model.named_parameters()) == 0
            )
        assert built.num_parameters() == case.theirs().num_parameters()

    def test_they_train_as_one(self, tmp_path: Path) -> None:
        case = Case("Bert", "ForMaskedLM")
        model = perturb(case.ours())
        model.tie_weights()
        before = model.get_input_embeddings().weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(**case.inputs(), **labels_of("ForMaskedLM")).loss.backward()
        optimizer.step()
        assert not torch.equal(model.get_output_embeddings().weight, before)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    def test_shards_and_a_given_state(self, tmp_path: Path) -> None:
        model = perturb(BertForMaskedLM(BertConfig(**BERT))).eval()
        model.tie_weights()
        model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
        model.save_pretrained(tmp_path / "state", state_dict=model.state_dict())
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
        assert saved_keys(tmp_path / "shards") == saved_keys(tmp_path / "state")
        ids = torch.randint(31, (2, 5))
        for folder in ("shards", "state"):
            same(BertForMaskedLM.from_pretrained(tmp_path / folder)(ids).logits, model(ids).logits)


def test_auto_classes_read_text(tmp_path: Path) -> None:
    save_with_transformers(transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**DISTILBERT)), tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is DistilBertModel
    config = AutoConfig.from_pretrained(tmp_path, n_heads=6)
    assert (config.n_heads, config.num_attention_heads) == (6, 6)
    assert AutoModel.from_config(config).transformer.layer[0].heads == 6
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=7, torch_dtype="bfloat16")
    assert (model.config.num_labels, model.dtype, model.classifier.out_features) == (7, torch.bfloat16, 7)
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is DistilBertForMaskedLM
