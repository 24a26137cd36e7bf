"""The bridge to torchvision's detectors: a backbone in the form they take, and the parts whose defaults do not fit it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from vertebra.backbones.base import Backbone
from vertebra.backbones.bridges.plain import MapDict, check_built
from vertebra.errors import did_you_mean, listing
from vertebra.stages import Stage, stride_text

RATIOS = (0.5, 1.0, 2.0)
COARSEST_POOLED = 32
"""Regions are pooled from levels up to this stride; coarser ones are for proposals alone (Lin et al. 2017)."""


class Detector(NamedTuple):
    """What a detector takes, in torchvision's numbers.

    Args:
        anchors: Name of the argument for its anchors.
        scale: Side of the smallest anchor of a level, in strides of the level.
        per_octave: Anchor sizes in each level, evenly spaced up to the double.
        aspect_ratios: Height over width of anchors.
        pools: Name of each argument for a region pooling, to its cells per side.
        groups: What the width of the maps must be a multiple of, for the group norms of the detector's head.
    """

    anchors: str
    scale: float
    per_octave: int
    aspect_ratios: tuple[float, ...]
    pools: Mapping[str, int]
    groups: int = 1


DETECTORS = {
    "FasterRCNN": Detector("rpn_anchor_generator", 8, 1, RATIOS, {"box_roi_pool": 7}),
    "MaskRCNN": Detector("rpn_anchor_generator", 8, 1, RATIOS, {"box_roi_pool": 7, "mask_roi_pool": 14}),
    "KeypointRCNN": Detector("rpn_anchor_generator", 8, 1, RATIOS, {"box_roi_pool": 7, "keypoint_roi_pool": 14}),
    "RetinaNet": Detector("anchor_generator", 4, 3, RATIOS, {}),
    "FCOS": Detector("anchor_generator", 1, 1, (1.0,), {}, groups=32),
}


def to_torchvision(backbone: Backbone) -> TorchvisionBackbone:
    """Wrap a backbone for torchvision's detectors.

        features = to_torchvision(pyramid("resnet50", (4, 8, 16, 32, 64), neck_options={"extra_levels": "pool"}))
        detector = FasterRCNN(features, num_classes=21, **features.arguments("FasterRCNN"))

    Two-stage detectors are made for strides 4, 8, 16, 32 (and 64), RetinaNet and FCOS for 8, 16, 32, 64, 128. What is frozen
    stays frozen under `detector.train()`. Detectors normalise images themselves: pass `image_mean` and `image_std` of the
    backbone's image processor where they are not ImageNet's.

    Args:
        backbone: A built backbone whose maps have one width, as `pyramid` makes it of any; it becomes `body`, not a copy.

    Raises:
        TypeError: it is not a built backbone.
        ValueError: it returns no map, or its maps differ in width.
    """
    return TorchvisionBackbone(backbone)


class TorchvisionBackbone(MapDict):
    """`(b, c, h, w)` images to an ordered dictionary of maps `"0"`, `"1"`, …, finest first; made by `to_torchvision`.

    `out_channels` is the width of all maps, and `body` the backbone, so the names of all weights begin with `body.`.
    """

    def __init__(self, backbone: Backbone) -> None:
        check_built(backbone, "to_torchvision")
        widths = set(backbone.channels)
        if len(widths) != 1:
            strides = ", ".join(stride_text(stage.stride) for stage in backbone.output_stages) or "4, 8, 16, 32"
            raise ValueError(
                f"torchvision's detectors need maps of one width; this {type(backbone).__name__} has channels {backbone.channels}. "
                f"A neck makes them so: to_torchvision(pyramid(name_or_config, strides=({strides}), channels=256))."
            )
        super().__init__(backbone)
        self.out_channels: int = widths.pop()

    def names(self) -> list[Any]:
        """`"0"`, `"1"`, …, one for each selected map."""
        return [str(position) for position in range(len(self.body.output_stages))]

    @property
    def size_divisible(self) -> int:
        """What images should be padded to a multiple of: the detectors' argument `size_divisible`, 32 by default.

        `AnchorGenerator` takes strides from sizes by whole division (an image of 832 pixels with 7 cells of stride 128 has
        "stride 118"), so that anchors drift unless every stride divides the image.
        """
        return self.body.size_divisor

    def arguments(self, detector: str | type) -> dict[str, Any]:
        """The arguments of a detector whose defaults do not fit the backbone: anchors, region pooling, `size_divisible`.

        Args:
            detector: `"FasterRCNN"`, `"MaskRCNN"`, `"KeypointRCNN"`, `"RetinaNet"`, `"FCOS"`, or such a class or one derived
                from it.

        Raises:
            ValueError: another detector; strides that anchors or region pooling cannot have; a width its head cannot have.
        """
        wanted = _detector(detector)
        if self.out_channels % wanted.groups:
            raise ValueError(
                f"The head of this detector has norms of {wanted.groups} groups, so {self.out_channels} channels do not fit; "
                f"pyramid(name_or_config, channels={-(-self.out_channels // wanted.groups) * wanted.groups}) does."
            )
        pools = {name: self.roi_pool(cells) for name, cells in wanted.pools.items()}
        return {wanted.anchors: self.anchor_generator(detector), **pools, "size_divisible": self.size_divisible}

    def anchor_generator(
        self,
        detector: str | type = "FasterRCNN",
        *,
        scale: float | None = None,
        per_octave: int | None = None,
        aspect_ratios: tuple[float, ...] | None = None,
    ) -> Any:
        """A `torchvision` `AnchorGenerator` with sizes for every level, from its stride.

        A level of stride `s` has the sizes `scale * s * 2 ** (k / per_octave)` for `k < per_octave`, in whole pixels, rounded down:

        | detector | scale | sizes per level | at stride 8 | ratios |
        | --- | --- | --- | --- | --- |
        | Faster, Mask, Keypoint R-CNN | 8 | 1 | 64 | 0.5, 1, 2 |
        | RetinaNet | 4 | 3 | 32, 40, 50 | 0.5, 1, 2 |
        | FCOS (one anchor is the cell itself) | 1 | 1 | 8 | 1 |

        These are torchvision's own numbers at its own strides, so its weights fit.

        Args:
            detector: Whose row; as in `arguments`.
            scale: Instead of the row's: less where objects are small on the image.
            per_octave: Instead of the row's.
            aspect_ratios: Instead of the row's; height over width.

        Raises:
            ValueError: another detector; a stride that is no whole number of pixels or differs between the axes.
        """
        from torchvision.models.detection.anchor_utils import AnchorGenerator

        row = _detector(detector)
        scale = row.scale if scale is None else scale
        count = row.per_octave if per_octave is None else per_octave
        strides = [self._stride(stage, whole=True) for stage in self.body.output_stages]
        sizes = tuple(tuple(max(1, int(scale * s * 2 ** (k / count))) for k in range(count)) for s in strides)
        return AnchorGenerator(sizes, (tuple(aspect_ratios or row.aspect_ratios),) * len(sizes))

    def roi_pool(self, output_size: int | tuple[int, int] = 7, sampling_ratio: int = 2) -> Any:
        """A `torchvision` `MultiScaleRoIAlign` over the levels up to stride 32 (the finest level where all are coarser).

        Its scales are the exact strides; by itself it would guess powers of two from the first batch it sees, before padding.

        Args:
            output_size: Cells of the result, per side or `(height, width)`: 7 for boxes, 14 for masks.
            sampling_ratio: Samples per cell and axis.

        Raises:
            ValueError: strides that do not double from level to level, by which levels are assigned to boxes.
        """
        from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

        every = [self._stride(stage, whole=False) for stage in self.body.output_stages]
        strides = [stride for stride in every if stride <= COARSEST_POOLED] or every[:1]
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise ValueError(
                f"Region pooling assigns boxes to levels whose strides double; these are {listing(strides)}. "
                f"pyramid(name_or_config, strides=(4, 8, 16, 32)) gives levels that do."
            )
        pool = MultiScaleRoIAlign(self.names()[: len(strides)], output_size, sampling_ratio)
        first = round(math.log2(strides[0]))
        pool.scales = [1 / float(stride) for stride in strides]
        pool.map_levels = initLevelMapper(first, first + len(strides) - 1)
        return pool

    @staticmethod
    def _stride(stage: Stage, whole: bool) -> Any:
        down, right = stage.stride
        if down != right or (whole and down.denominator > 1):
            raise ValueError(
                f"Stage {stage.name!r} has stride {stride_text(stage.stride)}; torchvision's detectors need the same stride along "
                f"both axes{', in whole pixels' if whole else ''}. pyramid(name_or_config, strides=(4, 8, 16, 32)) makes such maps."
            )
        return down


def _detector(detector: str | type) -> Detector:
    names = [detector] if isinstance(detector, str) else [cls.__name__ for cls in getattr(detector, "__mro__", [])]
    found = next((DETECTORS[name] for name in names if name in DETECTORS), None)
    if found is None:
        shown = detector if isinstance(detector, str) else getattr(detector, "__name__", repr(detector))
        raise ValueError(
            f"detector={shown!r} is not known.{did_you_mean(shown, DETECTORS)} It is one of {listing(DETECTORS)}; for another, "
            f"anchor_generator(scale=…) and roi_pool(…) make the parts."
        )
    return found
