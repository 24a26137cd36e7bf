"""A backbone of one's own behind the Auto classes: configured, built, saved, loaded and checked like every other.

python examples/register_your_own.py
"""

import tempfile
from itertools import pairwise

from torch import nn

from vertebra import AutoBackbone, AutoConfig, Backbone, BackboneConfigMixin, BackboneOutput, verify
from vertebra.stages import Grid


class PyramidConfig(BackboneConfigMixin):
    """Channels of the input and of every level."""

    model_type = "pyramid"
    num_channels: int = 3
    widths: tuple[int, ...] = (16, 32, 64)
    stage_names = property(lambda self: [f"level{index}" for index in range(len(self.widths))])


class PyramidBackbone(Backbone):
    """One convolution of stride 2 a level."""

    config_class = PyramidConfig
    has_attentions = False

    def __init__(self, config):
        super().__init__(config)
        widths = [config.num_channels, *config.widths][: self.last_built_stage + 2]  # none after the last one selected
        self.levels = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.post_init()

    def describe_stages(self):
        """Say what all stages are: name, channels, and where the cells lie."""
        grid = Grid()
        for index, width in enumerate(self.config.widths):
            grid = grid.window(kernel=3, stride=2, padding=1)
            yield grid.stage(f"level{index}", index, width)

    def forward_features(self, pixel_values, *, output_hidden_states, output_attentions):
        """Compute the selected maps."""
        states = [pixel_values]
        for level in self.levels[: self.final_stage(output_hidden_states) + 1]:
            states.append(level(states[-1]).relu())
        maps = tuple(states[index + 1] for index in self.selected)
        return BackboneOutput(feature_maps=maps, hidden_states=tuple(states[1:]) if output_hidden_states else None)


AutoConfig.register("pyramid", PyramidConfig)
AutoBackbone.register(PyramidConfig, PyramidBackbone)

with tempfile.TemporaryDirectory() as folder:
    AutoBackbone.from_config(PyramidConfig(prune=False)).save_pretrained(folder)
    backbone = AutoBackbone.from_pretrained(folder, out_strides=(2, 4), prune=True)
print(backbone.out_features, backbone.channels, backbone.strides, f"{backbone.num_parameters():,} parameters")
print(verify(backbone, size=(224, 320)))
