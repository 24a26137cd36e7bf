"""A tokenizer's files: those of transformers are read, transformers reads ours, and a save is whole or nothing."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hub_server import HubServer
from hub_writes import WritableHubServer
from odd_texts import odd_texts
from tiny_vocab import WORDS, write_vocab

from vertebra import AddedToken, AutoTokenizer, BertTokenizer, BertTokenizerFast, PreTrainedTokenizerFast
from vertebra.text.tokenization.added_tokens import TokenFinder

BOTH = [BertTokenizer, BertTokenizerFast]
TEXTS = [*odd_texts(60, seed=8)[9:], "a new hello <x>world NEW wor ld", "<X> un<x>aff"]


def changed(tokenizer: Any) -> Any:
    """The tokenizer with what files must keep."""
    token = tokenizers.AddedToken if isinstance(tokenizer, transformers.PreTrainedTokenizerBase) else AddedToken
    tokenizer.add_tokens(["new", token("wor", single_word=True)])
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<x>"]})
    tokenizer.model_max_length = 77
    return tokenizer


def state(tokenizer: Any) -> tuple[Any, ...]:
    ids = tokenizer(TEXTS, verbose=False)["input_ids"]
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    return ids, decoded, len(tokenizer), tokenizer.all_special_tokens, tokenizer.model_max_length


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_vocab(tmp_path / "vocabulary")


@pytest.mark.parametrize("reader", BOTH)
@pytest.mark.parametrize("lowercase", [True, False])
def test_theirs_to_ours(reader: Any, lowercase: bool, folder: Path, tmp_path: Path) -> None:
    theirs = changed(transformers.BertTokenizer.from_pretrained(folder, do_lower_case=lowercase))
    theirs.save_pretrained(tmp_path / "saved")
    found = reader.from_pretrained(tmp_path / "saved")
    assert state(found) == state(theirs)
    assert found.do_lower_case is lowercase


@pytest.mark.parametrize("writer", BOTH)
@pytest.mark.parametrize("lowercase", [True, False])
def test_ours_to_theirs_and_ours(writer: Any, lowercase: bool, folder: Path, tmp_path: Path) -> None:
    ours = changed(writer.from_pretrained(folder, do_lower_case=lowercase, padding_side="left"))
    paths = ours.save_pretrained(tmp_path / "saved")
    assert all(Path(path).is_file() for path in paths)
    expected = state(ours)
    for reader in (transformers.AutoTokenizer, *BOTH, AutoTokenizer):
        found = reader.from_pretrained(tmp_path / "saved")
        assert state(found) == expected
        assert found.padding_side == "left"
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "BertTokenizer"
    assert "vocab_file" not in config


def test_the_older_files(folder: Path) -> None:
    """special_tokens_map.json and added_tokens.json, as before transformers 4.34."""
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": len(WORDS), "new": len(WORDS) + 1}))
    token = {"content": "<x>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": [token], "cls_token": "a"})
    )
    for kind in BOTH:
        tokenizer = kind.from_pretrained(folder)
        assert tokenizer("b new <x> NEW")["input_ids"] == [5, 6, 26, 25, 26, 3]
        assert tokenizer.all_special_tokens[-1] == "<x>"
        assert kind.from_pretrained(folder, cls_token="[CLS]")("b")["input_ids"] == [2, 6, 3]


def test_settings_beside_a_pipeline_win(folder: Path, tmp_path: Path) -> None:
    BertTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    for kind in BOTH:
        tokenizer = kind.from_pretrained(tmp_path / "saved", do_lower_case=False, strip_accents=True, sep_token="b")
        assert tokenizer("Hello café", return_offsets_mapping=True)["input_ids"] == [2, 1, WORDS.index("cafe"), 6]
        assert tokenizer.strip_accents is True


def test_pipelines_that_plain_python_does_not_do(folder: Path, tmp_path: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.txt").unlink()
    assert BertTokenizerFast.from_pretrained(tmp_path / "saved").tokenize("Hello") == ["[UNK]"]
    with pytest.raises(ValueError, match=r"made of WordPiece, NFKC, BertPreTokenizer.*load it with use_fast=True"):
        BertTokenizer.from_pretrained(tmp_path / "saved")


def test_a_tokenizer_without_a_class_of_its_own(tmp_path: Path) -> None:
    pipeline = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    pipeline.enable_padding(pad_id=0, pad_token="a", direction="left", length=9)
    pipeline.enable_truncation(2)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pipeline, unk_token="?", bos_token="<s>", model_max_length=9)
    assert tokenizer("a c b <s>")["input_ids"] == [0, 2, 1, 3]  # neither shortened nor padded: calls say that
    assert tokenizer.padding_side == "left"
    assert tokenizer.build_inputs_with_special_tokens([1], [2]) == [1, 2]
    tokenizer.save_pretrained(tmp_path)
    assert pipeline.truncation is not None
    for reader in (PreTrainedTokenizerFast, AutoTokenizer, transformers.AutoTokenizer):
        found = reader.from_pretrained(tmp_path)
        assert found("a c b <s>")["input_ids"] == [0, 2, 1, 3]
        assert (found.bos_token, found.model_max_length) == ("<s>", 9)
    assert "tokenizer.json" in {path.name for path in tmp_path.iterdir()}
    single = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer.json")
    assert single("b")["input_ids"] == [1]


@pytest.mark.parametrize("kind", BOTH)
def test_many_added_tokens_load_at_once(kind: Any, tmp_path: Path) -> None:
    """As Whisper's have: added one by one they took 13 seconds, and 0.1 all together."""
    tokenizer = kind({word: at for at, word in enumerate(WORDS)})
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{at}|>" for at in range(1600)]})
    tokenizer.save_pretrained(tmp_path)
    began = time.process_time()
    again = kind.from_pretrained(tmp_path)
    assert time.process_time() - began < 3
    assert again.all_special_ids == tokenizer.all_special_ids


def test_space_taken_by_tokens_is_found_in_linear_time() -> None:
    """Each of them once copied the whole text: 700 kB took 7 seconds."""
    mask = AddedToken("[MASK]", lstrip=True, rstrip=True, special=True)
    parts = TokenFinder({"[MASK]": mask}).split("[MASK]  " * 50_000)
    began = time.process_time()
    assert sum(1 for _ in parts) == 50_000
    assert time.process_time() - began < 1.5


def test_one_vocabulary_file(folder: Path) -> None:
    for kind in BOTH:
        assert kind.from_pretrained(folder / "vocab.txt")("a")["input_ids"] == [2, 5, 3]


def test_what_files_say_beside_is_kept(folder: Path, tmp_path: Path) -> None:
    config = {
        "tokenizer_class": "BertTokenizer",
        "chat_template": "{{ x }}",
        "tokenizer_file": "/etc/passwd",
        "image_token": "<i>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for kind in BOTH:
        tokenizer = kind.from_pretrained(folder)
        assert tokenizer.image_token_id == len(WORDS)
        tokenizer.save_pretrained(tmp_path / kind.__name__)
        saved = json.loads((tmp_path / kind.__name__ / "tokenizer_config.json").read_text())
        assert saved["chat_template"] == "{{ x }}"
        assert saved["extra_special_tokens"] == {"image_token": "<i>"}
        assert "tokenizer_file" not in saved
        assert kind.from_pretrained(tmp_path / kind.__name__).image_token == "<i>"


def test_a_save_leaves_one_tokenizer(folder: Path) -> None:
    changed(BertTokenizerFast.from_pretrained(folder)).save_pretrained(folder)
    assert {"tokenizer.json", "added_tokens.json"} <= {path.name for path in folder.iterdir()}
    vocab = {word: at for at, word in enumerate(WORDS[:12])}
    BertTokenizer(vocab).save_pretrained(folder)
    assert not {"tokenizer.json", "added_tokens.json"} & {path.name for path in folder.iterdir()}
    assert len(AutoTokenizer.from_pretrained(folder)) == 12


def test_saves_that_fail(folder: Path, tmp_path: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(folder)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"save_pretrained\('.*file'\): this is a file; give a folder"):
        tokenizer.save_pretrained(tmp_path / "file")
    tokenizer.init_kwargs["thing"] = object()
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(TypeError, match=r"BertTokenizer has the setting <object object.*which JSON cannot hold"):
        tokenizer.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    with pytest.raises(TypeError, match=r"save_pretrained has no argument 'legacy'"):
        tokenizer.save_pretrained(folder, legacy=True)


def test_the_hub(hub: HubServer, folder: Path, cache: Path) -> None:
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    commit = hub.add("org/text", folder)
    tokenizer = AutoTokenizer.from_pretrained("org/text", cache_dir=cache)
    assert tokenizer("a")["input_ids"] == [2, 5, 3]
    assert all(
        "main" in request.path or commit in request.path for request in hub.requests if "resolve" in request.path
    )
    hub.clear()
    assert AutoTokenizer.from_pretrained("org/text", cache_dir=cache, local_files_only=True)("a")["input_ids"] == [
        2,
        5,
        3,
    ]
    assert hub.requests == []
    with pytest.raises(OSError, match="'org/nothing' is neither a local folder nor a repository on the hub"):
        AutoTokenizer.from_pretrained("org/nothing", cache_dir=cache)


def test_push(hub: WritableHubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    hub.account("hf_tokenizers", "someone")
    monkeypatch.setenv("HF_TOKEN", "hf_tokenizers")
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    tokenizer.push_to_hub("someone/pushed-tokenizer")
    assert BertTokenizer.from_pretrained("someone/pushed-tokenizer", cache_dir=cache)("a")["input_ids"] == [2, 5, 3]
