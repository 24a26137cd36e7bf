"""Print the most likely ImageNet class of every photo in a folder.

python examples/classify.py demo/photos --model demo/lite0
"""

import argparse

import torch

from vertebra import AutoImageProcessor, AutoModelForImageClassification
from vertebra.extraction.sources import find_images


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the top class of every photo.")
    parser.add_argument("photos")
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    processor = AutoImageProcessor.from_pretrained(args.model)
    model = AutoModelForImageClassification.from_pretrained(args.model)
    for name, path in find_images(args.photos):
        with torch.inference_mode():
            logits = model(**processor(path, return_tensors="pt")).logits
        probability, index = logits.softmax(-1).max(-1)
        print(f"{name:<14} {model.config.labels[index.item()]:<30} {probability.item():.3f}")


if __name__ == "__main__":
    main()
