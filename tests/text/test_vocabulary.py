"""More and fewer tokens: embeddings and scores that grow and shrink together, and what is replaced."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import close, perturb, same
from text_cases import CASES, Case, labels_of
from torch import nn

from vertebra import AutoModel, BertConfig, BertForMaskedLM, DistilBertModel
from vertebra.text.vocabulary import SPREAD

by_name = pytest.mark.parametrize("case", CASES, ids=str)
SCORING = pytest.mark.parametrize("family", ["Bert", "DistilBert"])


@by_name
@pytest.mark.parametrize("count", [40, 31, 25])
def test_old_tokens_keep_their_meaning(case: Case, count: int, tmp_path: Path) -> None:
    model = perturb(case.ours()).eval()
    model.tie_weights()
    before = copy.deepcopy(model)
    words = model.resize_token_embeddings(count)
    assert words is model.get_input_embeddings()
    assert (words.num_embeddings, words.weight.shape[0], model.config.vocab_size) == (count,) * 3
    assert words.padding_idx == 0
    inputs = case.inputs()
    inputs["input_ids"] = inputs["input_ids"].clamp(max=24)
    with torch.no_grad():
        for name, after in model(**inputs).items():
            expected = before(**inputs)[name]
            kept = min(count, 31)
            close(after[..., :kept], expected[..., : after.shape[-1]], name=name)
    if model.get_output_embeddings() is not None:
        assert model.get_output_embeddings().weight is words.weight
        assert model.get_output_embeddings().bias.shape == (count,)
    model.save_pretrained(tmp_path)
    again, info = case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    same(tuple(again.state_dict().values()), tuple(model.state_dict().values()))


@SCORING
def test_the_same_as_transformers(family: str) -> None:
    """Old rows stay; new ones are transformers' in mean; sizes, ties and the configuration agree."""
    case = Case(family, "ForMaskedLM")
    theirs, ours = case.theirs(), case.ours()
    ours.load_state_dict(theirs.state_dict())
    ours.tie_weights()
    theirs.resize_token_embeddings(37, pad_to_multiple_of=8)
    ours.resize_token_embeddings(37, pad_to_multiple_of=8)
    assert ours.config.vocab_size == theirs.config.vocab_size == 40
    for mine, other in (
        (ours.get_input_embeddings().weight, theirs.get_input_embeddings().weight),
        (ours.get_output_embeddings().bias, theirs.get_output_embeddings().bias),
    ):
        same(mine[:31].detach(), other[:31].detach())
        close(mine[31:].detach(), other[31:].detach().mean(0).expand_as(mine[31:]).clone(), 1e-2)
    theirs.load_state_dict(ours.state_dict())
    inputs = {**case.inputs(), **labels_of("ForMaskedLM")}
    close(ours.eval()(**inputs).logits, theirs.eval()(**inputs).logits)


class TestNewTokens:
    def model(self) -> DistilBertModel:
        return perturb(Case("DistilBert", "Model").ours(), scale=1.0)

    def test_near_the_mean_and_each_its_own(self) -> None:
        model = self.model()
        old = model.get_input_embeddings().weight.detach().clone()
        new = model.resize_token_embeddings(1031).weight.detach()[31:]
        away = (new - old.mean(0)) / old.std(0, correction=0)
        assert away.abs().max() < 6 * SPREAD
        assert abs(away.std().item() / SPREAD - 1) < 0.05
        assert new.unique(dim=0).shape[0] == 1000

    def test_as_in_a_new_model(self) -> None:
        new = self.model().resize_token_embeddings(1031, mean_resizing=False).weight.detach()[31:]
        assert abs(new.mean().item()) < 0.001
        assert abs(new.std().item() - 0.02) < 0.001

    def test_rounded_up(self) -> None:
        model = self.model()
        assert model.resize_token_embeddings(pad_to_multiple_of=8).num_embeddings == 32
        assert model.resize_token_embeddings(33, 64).num_embeddings == 64
        words = model.get_input_embeddings()
        assert model.resize_token_embeddings() is words
        assert model.resize_token_embeddings(64) is words

    def test_dtype_training_and_grad(self) -> None:
        model = self.model().bfloat16().eval()
        model.get_input_embeddings().weight.requires_grad_(False)
        words = model.resize_token_embeddings(40)
        assert (words.weight.dtype, words.weight.requires_grad, words.training) == (torch.bfloat16, False, False)

    def test_a_token_added_is_trained(self) -> None:
        model = self.model()
        words = model.resize_token_embeddings(32)
        model(torch.tensor([[31, 2]])).last_hidden_state.square().sum().backward()
        assert words.weight.grad[31].abs().sum() > 0

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ((0,), r"new_num_tokens=0 must be a whole number of at least 1, e\.g\. len\(tokenizer\)\."),
            ((7.5,), r"new_num_tokens=7\.5 must be a whole number"),
            ((True,), r"new_num_tokens=True must be a whole number"),
            ((40, 0), r"pad_to_multiple_of=0 must be a whole number"),
        ],
    )
    def test_numbers_that_are_none(self, given: tuple, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            self.model().resize_token_embeddings(*given)

    def test_whole_numbers_of_any_kind(self) -> None:
        model = self.model()
        assert model.resize_token_embeddings(np.int64(40)).num_embeddings == 40
        assert type(model.config.vocab_size) is int

    def test_weights_that_are_apart(self, tmp_path: Path) -> None:
        """Old scores stay; both tables grow, and the file has them."""
        case = Case("Bert", "ForMaskedLM", {"tie_word_embeddings": False})
        model = perturb(case.ours()).eval()
        before = copy.deepcopy(model)
        model.resize_token_embeddings(40)
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
        inputs = case.inputs()
        with torch.no_grad():
            close(model(**inputs).logits[..., :31], before(**inputs).logits)
            model.save_pretrained(tmp_path)
            same(case.cls.from_pretrained(tmp_path)(**inputs).logits, model(**inputs).logits)

    def test_padding_cannot_be_cut_off(self) -> None:
        model = AutoModel.from_config(BertConfig(**Case("Bert", "Model").keys, pad_token_id=30))
        with pytest.raises(ValueError, match=r"20 tokens would cut off pad_token_id=30; keep at least 31\."):
            model.resize_token_embeddings(20)
        assert model.config.vocab_size == 31


class TestReplaced:
    @SCORING
    def test_embeddings(self, family: str) -> None:
        model = Case(family, "ForMaskedLM").ours()
        words = nn.Embedding(31, 12)
        model.set_input_embeddings(words)
        assert model.base_model.embeddings.word_embeddings is model.get_input_embeddings() is words
        assert model.get_output_embeddings().weight is words.weight

    @SCORING
    def test_scores(self, family: str, tmp_path: Path) -> None:
        case = Case(family, "ForMaskedLM", {"tie_word_embeddings": False})
        model = case.ours().eval()
        linear = nn.Linear(12, 31)
        nn.init.normal_(linear.bias)
        model.set_output_embeddings(linear)
        assert model.get_output_embeddings() is linear
        model.save_pretrained(tmp_path)
        again = case.cls.from_pretrained(tmp_path)
        same(again.get_output_embeddings().bias, linear.bias)
        ids = torch.randint(31, (2, 5))
        same(again(ids).logits, model(ids).logits)

    def test_embeddings_of_other_tokens(self, tmp_path: Path) -> None:
        """The configuration follows, so that the file can be loaded."""
        model = Case("DistilBert", "ForSequenceClassification").ours().eval()
        model.set_input_embeddings(nn.Embedding(40, 12))
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        assert again.config.vocab_size == 40
        ids = torch.tensor([[39, 2]])
        same(again(ids).logits, model(ids).logits)

    @pytest.mark.parametrize(
        ("words", "error", "text"),
        [
            (nn.Embedding(31, 8), ValueError, r"The embedding has 8 channels; the model has 12\."),
            (
                nn.Embedding(40, 12),
                ValueError,
                r"40 tokens, and the model scores 31; call resize_token_embeddings\(40\)",
            ),
            (nn.Linear(12, 31), TypeError, r"The embedding of tokens is an nn\.Embedding, got Linear\."),
        ],
    )
    def test_embeddings_that_do_not_fit(self, words: nn.Module, error: type[Exception], text: str) -> None:
        model = Case("Bert", "ForMaskedLM").ours()
        before = model.get_input_embeddings()
        with pytest.raises(error, match=text):
            model.set_input_embeddings(words)
        assert model.get_input_embeddings() is before
        assert model.config.vocab_size == 31

    def test_embeddings_without_the_token_for_padding(self) -> None:
        model = Case("Bert", "Model", {"pad_token_id": 30}).ours()
        with pytest.raises(ValueError, match=r"20 tokens would cut off pad_token_id=30"):
            model.set_input_embeddings(nn.Embedding(20, 12))

    @SCORING
    @pytest.mark.parametrize("linear", [nn.Linear(12, 40), nn.Linear(8, 31), nn.Linear(12, 31, bias=False)], ids=str)
    def test_scores_that_do_not_fit(self, family: str, linear: nn.Linear) -> None:
        model = Case(family, "ForMaskedLM").ours()
        with pytest.raises(ValueError, match=r"scores tokens with nn\.Linear\(12, 31\) and its bias, got Linear\("):
            model.set_output_embeddings(linear)

    def test_models_that_score_nothing(self) -> None:
        model = Case("Bert", "Model").ours()
        assert model.get_output_embeddings() is None
        with pytest.raises(ValueError, match="BertModel scores no tokens, so it has no output embeddings to replace"):
            model.set_output_embeddings(nn.Linear(12, 31))


def test_ids_beyond_the_vocabulary_say_so() -> None:
    model = BertForMaskedLM(BertConfig(**Case("Bert", "ForMaskedLM").keys))
    ids = torch.tensor([[1, 31]])
    with pytest.raises(
        ValueError, match=r"input_ids holds 31; allowed are 0 to 30\. .*resize_token_embeddings\(len\(tokenizer\)\)"
    ):
        model(ids)
    model.resize_token_embeddings(32)
    assert model(ids).logits.shape == (1, 2, 32)
