"""BiT."""

from dataclasses import replace

from backbone_rows import Default, Row, all_positive
from torch import nn

from vertebra.backbones.bit_layers import GroupNormAct, StandardizedConv


def plain(model: nn.Module) -> None:
    """Take out the norms, which see the whole map, and the standardisation, whose filters are never all positive."""
    for path, child in list(model.named_modules()):
        parent, name = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        if isinstance(child, GroupNormAct):
            setattr(parent, name, nn.Identity())
        elif isinstance(child, StandardizedConv):
            shape = (child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding)
            setattr(parent, name, nn.Conv2d(*shape, bias=False).double())
    all_positive(model)


BIT = Row(
    "bit",
    "Bit",
    {
        "embedding_size": 8,
        "hidden_sizes": [16, 32, 64],
        "depths": [2, 1, 2],
        "num_groups": 4,
        "hidden_act": "silu",
        "drop_path_rate": 0.5,
    },
    (("stem", 8, 4), ("stage1", 16, 4), ("stage2", 32, 8), ("stage3", 64, 16)),
    plain,
    unexpected=(r"^classifier\.1\.", r"^bit\.norm\."),
    dead=r"^(bit\.)?norm\.",
    default=Default((64, 256, 512, 1024, 2048), (4, 4, 8, 16, 32), 23_496_256, variants=({"depths": [3, 4, 23, 3]},)),
)
BOTTLENECK = {**BIT.kwargs, "layer_type": "bottleneck"}
SAME = {**BOTTLENECK, "global_padding": "same", "embedding_dynamic_padding": True}
"""As inside hybrid ViTs."""
VARIANT = replace(BIT, default=None, parity_only=True)
BOTTLENECKS = replace(VARIANT, unexpected=(r"^classifier\.1\.",), dead=r"^$")
ROWS = {
    "bit": BIT,
    "bit-same": replace(BOTTLENECKS, kwargs=SAME),
    "bit-unpadded": replace(VARIANT, kwargs={**BIT.kwargs, "global_padding": "SAME"}),
    "bit-dilated": replace(
        BOTTLENECKS,
        kwargs={**BOTTLENECK, "embedding_dynamic_padding": True, "output_stride": 8},
        stages=(("stem", 8, 4), ("stage1", 16, 4), ("stage2", 32, 8), ("stage3", 64, 8)),
    ),
}
