"""A vocabulary of a few words for the tokenizers, and folders that hold it."""

from pathlib import Path

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e hello world un ##aff ##able ##a ##b , . ! ' the cat café cafe".split()


def write_vocab(folder: Path, words: list[str] | None = None) -> Path:
    """Write `vocab.txt` into a new folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words or WORDS), encoding="utf-8")
    return folder
