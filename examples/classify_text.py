"""A classifier of sentences of one's own architecture: change a configuration, make a tokenizer, train, save, load.

python examples/classify_text.py                                     # random weights: runs offline
python examples/classify_text.py distilbert/distilbert-base-uncased  # change that checkpoint's configuration instead
"""

import re
import sys
import tempfile
from pathlib import Path

import torch

from vertebra import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig

SENTENCES = {
    "good": """What a lovely film, I enjoyed every minute of it. | The actors are brilliant and the story is lovely.
        | I enjoyed the music, it is wonderful! | A wonderful story with brilliant actors. | Every minute is a joy.
        | The film is a joy, brilliant and funny. | Funny, lovely, wonderful: what a joy! | I enjoyed this funny story.""",
    "bad": """What a boring film, I hated every minute of it. | The actors are dreadful and the story is boring.
        | I hated the music, it is awful! | An awful story with dreadful actors. | Every minute is a waste of time.
        | The film is a waste, dreadful and dull. | Dull, boring, awful: what a waste! | I hated this dull story.""",
}
NEW = ["A lovely film with wonderful music.", "The story is dull and the music is dreadful."]
LABELS = dict(enumerate(SENTENCES))


def write_vocabulary(folder: Path) -> None:
    """Every word of the sentences, and the letters that others are made of, as BERT's tokenizers read them."""
    words = sorted(set(re.findall(r"[a-z]+|[.,:!]", " ".join(SENTENCES.values()).lower())))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*tokens, *words])) + "\n")


torch.manual_seed(0)
with tempfile.TemporaryDirectory() as work:
    folder = Path(work)
    write_vocabulary(folder)
    DistilBertConfig(dim=96, n_heads=8, n_layers=2, hidden_dim=192, max_position_embeddings=64).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    source = sys.argv[1] if sys.argv[1:] else folder
    config = AutoConfig.from_pretrained(source, n_heads=12, vocab_size=len(tokenizer), id2label=LABELS)
    encoder = AutoModel.from_config(config)
    print(f"{type(encoder).__name__}: {config.num_attention_heads} heads, {encoder.num_parameters():,} parameters")

    texts = [(text.strip(), label) for label, kind in LABELS.items() for text in SENTENCES[kind].split("|")]
    inputs = tokenizer([text for text, _ in texts], padding=True, truncation=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in texts])
    model = AutoModelForSequenceClassification.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 / config.hidden_size)  # the wider, the more careful
    for step in range(31):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step:2d}  loss {loss.item():.3f}")

    model.save_pretrained(folder / "trained")
    tokenizer.save_pretrained(folder / "trained")
    tokenizer = AutoTokenizer.from_pretrained(folder / "trained")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "trained")
    with torch.no_grad():
        shares = model(**tokenizer(NEW, padding=True, return_tensors="pt")).logits.softmax(-1)
for text, share in zip(NEW, shares, strict=True):
    label = int(share.argmax())
    print(f"{model.config.labels[label]:>4} {share[label].item():.2f}  {text}")
