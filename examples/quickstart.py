"""Feature maps of one photo from a checkpoint on the Hugging Face hub.

python examples/quickstart.py
"""

from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from vertebra import AutoBackbone, AutoImageProcessor

image = Image.open(Path(find_spec("skimage").origin).parent / "data/chelsea.png")  # any photo; this one is installed

processor = AutoImageProcessor.from_pretrained("microsoft/swin-tiny-patch4-window7-224")
model = AutoBackbone.from_pretrained("microsoft/swin-tiny-patch4-window7-224", out_indices=(1,))
inputs = processor(image, return_tensors="pt")
outputs = model(**inputs)

print(model.out_features, model.channels, model.strides)  # ['stage1'] [96] [4]
print(list(outputs.feature_maps[0].shape))  # [1, 96, 56, 56]
