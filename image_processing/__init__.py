"""From images to `pixel_values`: decoding, transforms, and one file per processor family."""
