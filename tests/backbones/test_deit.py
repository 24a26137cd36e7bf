"""What is particular to DeiT: the classifier with two heads, which its published files hold."""

from typing import Any

import pytest
import torch
import transformers
from oracle import close, save_with_transformers

from vertebra import (
    AutoModelForImageClassification,
    DeiTBackbone,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
)

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def folder(tmp_path: Any) -> Any:
    model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**TINY, num_labels=3))
    save_with_transformers(model, tmp_path)
    return tmp_path


def test_two_heads(folder: Any, tmp_path: Any) -> None:
    theirs = transformers.DeiTForImageClassificationWithTeacher.from_pretrained(folder, attn_implementation="eager")
    ours, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(ours) is DeiTForImageClassificationWithTeacher
    assert info["missing_keys"] == info["unexpected_keys"] == []
    x, asked = torch.randn(2, 3, 37, 51), {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected, actual = theirs(x, interpolate_pos_encoding=True, **asked), ours(x, **asked)
        plain = ours(x, return_dict=False)
    assert list(actual) == list(expected)
    for name in actual:
        close(actual[name], expected[name], name=name)
    close(plain, [actual.logits, actual.cls_logits, actual.distillation_logits])
    loss = ours(x, labels=torch.tensor([0, 2])).loss
    close(loss, torch.nn.functional.cross_entropy(expected.logits, torch.tensor([0, 2])))
    ours.save_pretrained(tmp_path / "again")
    _, info = type(theirs).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())


def test_their_files_in_other_classes(folder: Any) -> None:
    _, info = DeiTBackbone.from_pretrained(folder, output_loading_info=True)
    assert set(info["explained"].values()) == {"a classification head"}
    ours, info = DeiTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(ours) is DeiTForImageClassification
    assert info["explained"] == {
        **dict.fromkeys(("classifier.weight", "classifier.bias"), "the head is trained on the new task"),
        **{
            f"{head}_classifier.{leaf}": "the two heads of a classifier with teacher"
            for head in ("cls", "distillation")
            for leaf in ("weight", "bias")
        },
    }
