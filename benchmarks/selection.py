"""What an early selection saves: Swin-T and ResNet-50 up to their first stage, against all stages and against transformers.

Run: python benchmarks/selection.py
"""

from __future__ import annotations

import tempfile
from functools import partial

import torch
import transformers
from pairs import alternate, row

from vertebra import AutoBackbone


def main() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 224, 224)
    rows = {
        "Swin-T": transformers.SwinBackbone(transformers.SwinConfig(out_indices=[1, 2, 3, 4])),
        "ResNet-50": transformers.ResNetBackbone(transformers.ResNetConfig(out_indices=[1, 2, 3, 4])),
    }
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, one image of 224x224, fp32, medians of 15")
    print(f"{'':<44} {'vertebra':>11} {'other':>11}   ratio  (quartiles)")
    for name, theirs in rows.items():
        theirs.eval()
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            theirs.save_pretrained(folder)
            every = AutoBackbone.from_pretrained(folder)
            early = AutoBackbone.from_pretrained(folder, out_indices=(1,))
            their_early = type(theirs).from_pretrained(folder, out_indices=[1]).eval()
            for ours, other in ((every, theirs), (early, their_early)):
                for here, there in zip(ours(pixels).feature_maps, other(pixels).feature_maps, strict=True):
                    assert (here - there).abs().max() <= 1e-5 * there.abs().max(), "outputs differ"
            print(row(f"{name}, stage 1 / all four stages", *alternate(partial(early, pixels), partial(every, pixels))))
            print(
                row(
                    f"{name}, stage 1 / transformers, stage 1",
                    *alternate(partial(early, pixels), partial(their_early, pixels)),
                )
            )
            print(
                row(f"{name}, four stages / transformers", *alternate(partial(every, pixels), partial(theirs, pixels)))
            )
        held, whole = early.num_parameters(), every.num_parameters()
        print(f"{name}, stage 1 holds {held:,} of {whole:,} parameters; transformers {their_early.num_parameters():,}")


if __name__ == "__main__":
    main()
