"""Parameter groups: every parameter once, layers and decay as timm counts them where it is right, whatever the wrapper."""

import copy
import math
import re

import pytest
import timm
import torch
from backbone_rows import Row
from oracle import perturb
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from timm_names import SMALLEST
from torch import nn

from vertebra import (
    Backbone,
    MaskFormerSwinBackbone,
    MaskFormerSwinConfig,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
    SwinBackbone,
    SwinConfig,
    TimmBackbone,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    param_groups,
)
from vertebra.backbones.necks.fpn import FPN
from vertebra.backbones.param_groups import ParamGroups

DECAY = 0.5  # powers of it are exact
ORACLE = "VisionTransformer SwinTransformer ConvNeXt Beit Eva EdgeNeXt EfficientNet Hiera ResNet PoolingVisionTransformer".split()
UNNUMBERED = {"CSATv2": 19, "MetaFormer": 13, "MobileNetV5Encoder": 85, "PoolingVisionTransformer": 13}
"""The top layer of those for which timm has no `group_matcher`: it cuts their parameters into dozens, or gives all one rate;
ours are numbered by their stages and blocks."""
SPARED = {
    "EdgeNeXt": {"temperature"},
    "EfficientViM": {"alpha"},
    "EfficientViMDistilled": {"alpha"},
    "FastVit": {"gamma"},
    "NaFlexVit": {"pos_embed_x", "pos_embed_y"},
    "NormFreeNet": {"gain"},
    "SwiftFormer": {"gamma", "w_g"},
    "Visformer": {"pos_embed1", "pos_embed2", "pos_embed3"},
    "VisionTransformerSAM": {"rel_pos_h", "rel_pos_w"},
    "Xcit": {"temperature"},
}
"""Scales and position tables by class that timm decays, because they have more than one dimension and no list names them."""
LAST_BLOCK = {
    "DeepseekVitClassifier", "DeepseekVitEncoder", "Eva", "Gemma4VitClassifier", "Gemma4VitEncoder", "IFormer",
    "Qwen3VitClassifier", "Qwen3VitEncoder",
}  # fmt: skip
"""Timm gives the last block the full rate, for want of a classifier or because that shares the block's layer: ours keeps a
layer above it for neck and head, so that all its rates are one factor lower."""
TINY_SWIN = {"embed_dim": 8, "depths": (2, 1, 3), "num_heads": (1, 2, 4), "window_size": 2}
TINY_RESNET = {"embedding_size": 8, "hidden_sizes": (16, 32, 64), "depths": (1, 3, 2)}


def meta(kind: str, **options: object) -> TimmBackbone:
    """The smallest of a class, ending with its last level."""
    with torch.device("meta"):
        return TimmBackbone(TimmBackboneConfig(SMALLEST[kind], use_pretrained_backbone=False, **options))


def swin(**options: object) -> SwinBackbone:
    return SwinBackbone(SwinConfig(**(TINY_SWIN | {"out_indices": (0, 1, 2, 3)} | options)))


def resnet(**options: object) -> ResNetBackbone:
    return ResNetBackbone(ResNetConfig(**(TINY_RESNET | {"out_indices": (0, 1, 2, 3)} | options)))


def table(groups: ParamGroups) -> dict[str, tuple[float, float]]:
    """Name to learning rate and weight decay."""
    return {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["param_names"]}


def layers(groups: ParamGroups) -> dict[str, int | None]:
    return {name: group["layer"] for group in groups for name in group["param_names"]}


def timms(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Name to scale and weight decay, by timm's own function."""
    listed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, 0.05, listed, layer_decay=DECAY)
    return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}


def each_once(groups: ParamGroups, model: nn.Module) -> None:
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def as_timm_does(kind: str) -> None:
    """Equal to timm's scales and decay, but for the differences named above, and independent of the selection."""
    with torch.device("meta"):
        theirs = timms(timm.create_model(SMALLEST[kind]))
    backbone = meta(kind)
    groups = backbone.param_groups(1.0, 0.05, DECAY)
    each_once(groups, backbone)
    ours = table(groups)
    shift = DECAY if kind in LAST_BLOCK else 1.0
    if kind in UNNUMBERED:
        assert {*layers(groups).values()} == {*range(UNNUMBERED[kind])}
    else:
        wrong = {name: rate for name, (rate, _) in ours.items() if rate != shift * theirs[name][0]}
        assert not wrong, wrong
    differ = {name for name, (_, decay) in ours.items() if decay != theirs[name][1]}
    assert {name.rpartition(".")[2] for name in differ} == SPARED.get(kind, set())
    assert all(ours[name][1] == 0 for name in differ)
    first = table(meta(kind, out_indices=(0,)).param_groups(1.0, 0.05, DECAY))
    assert first
    assert first == {name: ours[name] for name in first}


class TestTimm:
    @pytest.mark.parametrize("kind", ORACLE)
    def test_as_timm_does(self, kind: str) -> None:
        as_timm_does(kind)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", sorted({*SMALLEST} - {*ORACLE}))
    def test_the_other_classes(self, kind: str) -> None:
        as_timm_does(kind)

    def test_timms_own_is_a_no_op_on_feature_wrappers_and_ours_is_not(self) -> None:
        with torch.device("meta"):
            wrapper = timm.create_model("test_vit", features_only=True)
        assert {scale for scale, _ in timms(wrapper).values()} == {1.0}
        ours = {rate for rate, _ in table(meta("VisionTransformer").param_groups(1.0, 0.05, DECAY)).values()}
        assert ours == {DECAY**power for power in range(1, 8)}

    def test_tokens_do_not_decay_and_stand_in_the_stem(self) -> None:
        with torch.device("meta"):
            config = TimmBackboneConfig("vit_medium_patch16_reg4_gap_256", use_pretrained_backbone=False)
            groups = TimmBackbone(config).param_groups(1.0, 0.05, DECAY)
        found = {name: (table(groups)[name][1], layers(groups)[name]) for name in ("reg_token", "pos_embed")}
        assert found == {"reg_token": (0.0, 0), "pos_embed": (0.0, 0)}

    def test_rotary_frequencies_that_timms_matcher_forgets_stand_in_the_stem(self) -> None:
        name = "vit_small_patch16_rope_mixed_224"
        with torch.device("meta"):
            theirs = timms(timm.create_model(name))
            groups = TimmBackbone(TimmBackboneConfig(name, use_pretrained_backbone=False)).param_groups(
                1.0, 0.05, DECAY
            )
        assert theirs["rope.freqs"][0] == 1.0
        assert {key for key, pair in table(groups).items() if pair[0] != theirs[key][0]} == {"rope.freqs"}
        assert table(groups)["rope.freqs"] == (DECAY**13, 0.0)

    @pytest.mark.parametrize("name", ["test_vit", "iformer_t", "pit_ti_224"])
    def test_a_classifier_learns_at_the_full_rate(self, name: str) -> None:
        with torch.device("meta"):
            model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=5))
        groups = param_groups(model, 1.0, 0.05, DECAY)
        each_once(groups, model)
        rates = {key: rate for key, (rate, _) in table(groups).items()}
        head = timm.get_pretrained_cfg(name).classifier
        assert {rates[f"{part}.weight"] for part in ([head] if isinstance(head, str) else head)} == {1.0}
        assert min(rates.values()) < DECAY**5

    def test_without_a_matcher_blocks_are_counted_through_the_stages(self) -> None:
        for name, layer in layers(meta("PoolingVisionTransformer").param_groups(1.0, layer_decay=DECAY)).items():
            found = re.match(r"transformers\.(\d)\.(?:blocks\.(\d)|pool)", name)
            assert layer == (1 + sum((2, 6, 4)[: int(found[1])]) + int(found[2] or 0) if found else 0), name

    def test_classes_of_the_classifier_change_nothing(self) -> None:
        with_head = table(meta("VisionTransformer").param_groups(1.0, 0.05, DECAY))
        without = meta("VisionTransformer", model_args={"num_classes": 0})
        assert table(without.param_groups(1.0, 0.05, DECAY)) == with_head


class TestEveryFamily:
    SPARED = r"token|position|rel_pos|relative|scale|gamma|lambda|grn|bias"

    def test_layers_follow_the_stages_whatever_is_selected(self, row: Row) -> None:
        whole = row.describe(out_indices=list(row.indices))
        groups = whole.param_groups(1.0, 0.05, DECAY)
        each_once(groups, whole)
        numbers, rates, lowest, known = layers(groups), table(groups), [], set()
        for index in row.indices:
            if not (alone := row.describe(out_indices=[index])).num_parameters():
                continue  # the image itself
            pruned = table(alone.param_groups(1.0, 0.05, DECAY))
            assert pruned == {name: rates[name] for name in pruned}
            if added := pruned.keys() - known:
                lowest.append(min(numbers[name] for name in added))
            known |= added
        assert lowest == sorted(set(lowest)), "a stage that was added begins above the one before"
        for name, parameter in whole.named_parameters():
            spared = rates[name][1] == 0
            assert spared if parameter.ndim < 2 else not spared or re.search(self.SPARED, name), name


class TestNative:
    def test_swin_in_closed_form(self) -> None:
        blocks = {
            (stage, block): 1 + sum((2, 1, 3)[:stage]) + block
            for stage in range(3)
            for block in range((2, 1, 3)[stage])
        }
        for name, layer in layers(swin().param_groups(1.0, layer_decay=DECAY)).items():
            if found := re.match(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.", name):
                assert layer == blocks[int(found[1]), int(found[2])], name
            elif found := re.match(r"encoder\.layers\.(\d+)\.downsample\.", name):
                assert layer == blocks[int(found[1]) + 1, 0], name
            else:
                assert layer == {"embeddings": 0, "hidden_states_norms": 7}[name.partition(".")[0]], name

    def test_swin_has_the_layers_of_timms_swin(self) -> None:
        with torch.device("meta"):
            ours = table(SwinBackbone(SwinConfig(out_indices=(4,))).param_groups(1.0, 0.05, DECAY))
        theirs = timms(timm.create_model(SMALLEST["SwinTransformer"]))
        for stage, depth in enumerate((2, 2, 6, 2)):
            for block in range(depth):
                here = f"encoder.layers.{stage}.blocks.{block}"
                there = f"layers.{stage}.blocks.{block}"
                assert ours[f"{here}.intermediate.dense.weight"] == theirs[f"{there}.mlp.fc1.weight"]
                bias = ours[f"{here}.attention.self.relative_position_bias_table"]
                assert bias == theirs[f"{there}.attn.relative_position_bias_table"]

    @pytest.mark.parametrize("kind", ["basic", "bottleneck"])
    def test_resnet_in_closed_form(self, kind: str) -> None:
        groups = resnet(layer_type=kind).param_groups(1.0, 0.05, DECAY)
        for name, layer in layers(groups).items():
            found = re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", name)
            assert layer == (1 + sum((1, 3, 2)[: int(found[1])]) + int(found[2]) if found else 0), name
            assert table(groups)[name] == (DECAY ** (7 - layer), 0.05 if "convolution" in name else 0.0)

    @pytest.mark.parametrize("build", [swin, resnet])
    @pytest.mark.parametrize("options", [{"out_indices": (1,)}, {"out_indices": (0, 2)}, {"prune": False}])
    def test_rates_do_not_depend_on_the_selection(self, build: type, options: dict[str, object]) -> None:
        whole, other = (table(build(**keys).param_groups(0.1, 0.05, 0.7)) for keys in ({}, options))
        assert other.items() <= whole.items()

    def test_maskformers_spelling(self) -> None:
        config = MaskFormerSwinConfig(**TINY_SWIN, out_indices=(1, 3))
        found = layers(MaskFormerSwinBackbone(config).param_groups(1.0, layer_decay=DECAY))
        expected = layers(swin(out_indices=(1, 3)).param_groups(1.0, layer_decay=DECAY))
        spelled = {re.sub(r"^(embeddings|encoder)", r"model.\1", name): layer for name, layer in expected.items()}
        norms = {
            "hidden_states_norms.stage1": "hidden_states_norms.0",
            "hidden_states_norms.stage3": "hidden_states_norms.2",
        }
        assert found == {
            re.sub(r"^hidden_states_norms\.stage\d", lambda match: norms[match[0]], name): layer
            for name, layer in spelled.items()
        }

    def test_position_tables_do_not_decay(self) -> None:
        groups = swin(use_absolute_embeddings=True, image_size=16).param_groups(1.0, 0.05)
        tables = {name: decay for name, (_, decay) in table(groups).items() if "position" in name}
        assert len(tables) == 7
        assert set(tables.values()) == {0.0}

    def test_a_shared_norm_on_all_maps_is_above_the_blocks(self) -> None:
        """A ViT-like backbone: every block a stage, one norm for all maps, convolutions in the stem."""
        assert layers(Flat(FlatConfig(out_indices=(1, 3))).param_groups(1.0, layer_decay=DECAY)) == {
            "stem.0.0.weight": 0,
            "stem.1.0.weight": 0,
            **{f"blocks.{index}.fc.{leaf}": index + 1 for index in range(3) for leaf in ("weight", "bias")},
            "norm.weight": 4,
            "norm.bias": 4,
        }


class FlatConfig(SwinConfig):
    """Three blocks."""

    model_type = "flat-test"

    @property
    def stage_names(self) -> list[str]:
        return ["stem", "stage1", "stage2", "stage3"]


class Flat(Backbone):
    """Blocks that are stages, under a norm that they share."""

    config_class = FlatConfig
    has_attentions = False

    def __init__(self, config: FlatConfig) -> None:
        super().__init__(config)
        convolutions = (nn.Conv2d(3, 4, 2, 2, bias=False), nn.Conv2d(4, 4, 2, 2, bias=False))
        self.stem = nn.Sequential(*map(nn.Sequential, convolutions))
        blocks = [nn.ModuleDict({"fc": nn.Linear(4, 4)}) for _ in range(max(self.last_built_stage, 0))]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(4)
        self.post_init()

    def describe_stages(self) -> list[object]:
        return list(swin().stages)

    def forward_features(self, pixel_values: torch.Tensor, **_: bool) -> None:
        raise NotImplementedError


class Detector(nn.Module):
    """A head model: two backbones (the second frozen up to a stage) and layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)
        self.queries = nn.Embedding(5, 4)
        self.body = FPN(resnet(out_indices=(1, 2, 3)), channels=8)
        self.teacher = swin(freeze="stage1")
        self.logit_scale = nn.Parameter(torch.ones(2, 3))


class TestWrappers:
    def test_a_head_model_with_a_neck_and_two_backbones(self) -> None:
        model = Detector()
        groups = param_groups(model, 0.1, 0.05, DECAY, head_lr_scale=3)
        each_once(groups, model)
        found = table(groups)
        assert found["head.weight"] == (0.1 * 3, 0.05)  # one row, but a projection
        assert found["head.bias"] == found["queries.weight"] == found["logit_scale"] == (0.1 * 3, 0.0)
        own = {name: pair for name, pair in found.items() if name.startswith("body.") and ".backbone." not in name}
        assert own
        assert {rate for rate, _ in own.values()} == {0.1 * 3}
        alone = table(resnet(out_indices=(1, 2, 3)).param_groups(0.1, 0.05, DECAY))
        assert {name.partition(".backbone.")[2]: pair for name, pair in found.items() if ".backbone." in name} == alone
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert found.keys() == trainable
        assert not any("layers.0.blocks" in name for name in found)
        assert {group["name"].partition(".layer_")[0] for group in groups} == {
            "body.backbone", "teacher", "head_decay", "head_no_decay",
        }  # fmt: skip
        assert [group["name"] for group in groups[-2:]] == ["head_decay", "head_no_decay"]

    @pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential, torch.compile])
    def test_wrapped(self, wrap: type) -> None:
        plain, wrapped = (table(param_groups(model, 0.1, 0.05, 0.7)) for model in (swin(), wrap(swin())))
        assert {re.sub(r"^(module|0|_orig_mod)\.", "", name): pair for name, pair in wrapped.items()} == plain

    def test_distributed(self, tmp_path: object) -> None:
        store = f"file://{tmp_path}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        try:
            wrapped = table(param_groups(nn.parallel.DistributedDataParallel(swin()), 0.1, 0.05, 0.7))
        finally:
            torch.distributed.destroy_process_group()
        assert {name.removeprefix("module."): pair for name, pair in wrapped.items()} == table(
            swin().param_groups(0.1, 0.05, 0.7)
        )

    def test_a_part_that_is_compiled_keeps_its_layers(self) -> None:
        model = swin()
        expected = list(layers(model.param_groups(0.1, layer_decay=DECAY)).values())
        model.encoder.layers[1] = torch.compile(model.encoder.layers[1])
        assert list(layers(model.param_groups(0.1, layer_decay=DECAY)).values()) == expected

    def test_in_a_detector_of_torchvision(self) -> None:
        from torchvision.models.detection import RetinaNet

        neck = FPN(resnet(out_indices=(1, 2, 3)), channels=8)
        neck.out_channels = 8
        model = RetinaNet(neck, num_classes=2)
        groups = param_groups(model, 0.1, 0.05, DECAY)
        each_once(groups, model)
        assert table(groups)["backbone.backbone.embedder.embedder.convolution.weight"][0] == 0.1 * DECAY**7
        assert table(groups)["head.classification_head.cls_logits.weight"] == (0.1, 0.05)

    def test_shared_parameters_count_once_and_go_with_the_backbone(self) -> None:
        model = nn.Module()
        model.first = nn.Linear(8, 8)
        model.trunk = swin()
        model.first.weight = model.trunk.encoder.layers[0].blocks[0].attention.self.query.weight
        groups = param_groups(model, 1.0, 0.05, DECAY)
        each_once(groups, model)
        assert layers(groups)["first.weight"] == 1

    def test_parametrized_weights_decay_as_weights(self) -> None:
        model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        decays = {name.rpartition(".")[2]: decay for name, (_, decay) in table(param_groups(model, 1.0)).items()}
        assert decays == {"bias": 0.0, "original0": 0.0, "original1": 0.05}

    def test_a_module_of_ones_own_may_list_what_does_not_decay(self) -> None:
        class Head(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.project, self.mix = nn.Linear(4, 4), nn.Linear(4, 4)

            def no_weight_decay(self) -> set[str]:
                return {"mix.weight"}

        found = table(param_groups(nn.Sequential(swin(), Head()), 1.0))
        assert (found["1.project.weight"][1], found["1.mix.weight"][1]) == (0.05, 0.0)


class TestOptimizers:
    def test_a_step_moves_layers_in_the_ratio_of_the_decay(self) -> None:
        model = resnet().double()
        before = copy.deepcopy(model.state_dict())
        groups = model.param_groups(0.1, 0.0, DECAY)
        optimizer = torch.optim.SGD(groups)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved = {
            name: (before[name] - tensor).flatten()
            for name, tensor in model.state_dict().items()
            if name in table(groups)
        }
        for name, layer in layers(groups).items():
            expected = torch.full_like(moved[name], 0.1 * DECAY ** (7 - layer))
            torch.testing.assert_close(moved[name], expected, rtol=1e-12, atol=1e-15)

    def test_frozen_stages_are_left_out_and_the_others_keep_their_rates(self) -> None:
        model = perturb(swin()).eval()  # drop path would drop whole branches of the one image
        whole = table(model.param_groups(0.1, 0.05, 0.7))
        report = model.freeze("stage1")
        rest = table(model.param_groups(0.1, 0.05, 0.7))
        assert rest == {name: pair for name, pair in whole.items() if name not in report.parameters}
        optimizer = torch.optim.AdamW(model.param_groups(0.1, 0.05, 0.7))
        before = copy.deepcopy(model.state_dict())
        sum(level.square().sum() for level in model(torch.randn(1, 3, 64, 64)).feature_maps).backward()
        optimizer.step()
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed <= rest.keys()
        still = {name for name in rest.keys() - changed if not name.endswith("key.bias")}  # softmax does not see these
        assert not still, still

    def test_the_state_of_an_optimizer_fits_a_rebuilt_model(self) -> None:
        first, second = (torch.optim.AdamW(Detector_groups(seed)) for seed in (0, 1))
        for group in first.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 0.5)
        first.step()
        second.load_state_dict(first.state_dict())
        for left, right in zip(first.param_groups, second.param_groups, strict=True):
            assert (left["name"], left["param_names"], left["lr"]) == (right["name"], right["param_names"], right["lr"])
            for one, other in zip(left["params"], right["params"], strict=True):
                assert torch.equal(first.state[one]["exp_avg"], second.state[other]["exp_avg"])

    @pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
    def test_optimizers_and_schedulers_keep_the_ratios(self, kind: type) -> None:
        optimizer = kind(resnet().param_groups(0.1, 0.05, DECAY))
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1**step)
        optimizer.step()
        scheduler.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.1 * rate for rate in rates]

    def test_timms_schedulers_do_not_scale_twice(self) -> None:
        optimizer = torch.optim.SGD(resnet().param_groups(0.1, 0.05, DECAY))
        rates = [group["lr"] for group in optimizer.param_groups]
        CosineLRScheduler(optimizer, t_initial=10).step(0)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates, rel=1e-12)


def Detector_groups(seed: int) -> ParamGroups:
    torch.manual_seed(seed)
    return param_groups(Detector(), 0.1, 0.05, DECAY)


class TestTable:
    def test_without_layers_there_are_four_groups_at_most(self) -> None:
        groups = param_groups(nn.Sequential(swin(), nn.Linear(4, 4)), 0.1, 0.3, head_lr_scale=10)
        rows = [(group["name"], group["layer"], group["lr"], group["weight_decay"]) for group in groups]
        assert rows == [
            ("backbone_decay", None, 0.1, 0.3),
            ("backbone_no_decay", None, 0.1, 0.0),
            ("head_decay", None, 1.0, 0.3),
            ("head_no_decay", None, 1.0, 0.0),
        ]

    def test_prints_as_a_table(self) -> None:
        groups = param_groups(
            nn.Sequential(resnet(depths=(1, 1), hidden_sizes=(16, 1200), out_indices=(2,)), nn.Linear(4, 2)),
            1e-3,
            0.05,
            DECAY,
        )
        lines = str(groups).splitlines()
        assert lines[0].split() == ["group", "layer", "lr", "weight", "decay", "tensors", "parameters"]
        assert lines[1].split() == ["layer_0_decay", "0", "0.000125", "0.05", "1", "1,176"]
        assert lines[-2].split() == ["head_no_decay", "0.001", "0", "1", "2"]
        count = sum(parameter.numel() for group in groups for parameter in group["params"])
        assert lines[-1].split() == ["all", str(sum(len(group["params"]) for group in groups)), f"{count:,}"]
        assert len({len(line) for line in lines}) == 1
        assert repr(groups) == str(groups)


class TestErrors:
    @pytest.mark.parametrize("value", [0, -0.5, 1.01, math.nan, math.inf, "0.7", True])
    def test_layer_decay(self, value: object) -> None:
        with pytest.raises(
            ValueError, match=rf"layer_decay={value!r} must be a number above 0 and at most 1, such as 0\.75, or"
        ):
            swin().param_groups(0.1, layer_decay=value)

    @pytest.mark.parametrize("value", [0, -1e-4, math.nan, math.inf, "1e-4", None])
    def test_lr(self, value: object) -> None:
        with pytest.raises(ValueError, match=rf"^lr={value!r} must be a number above 0, such as 1e-4\.$"):
            swin().param_groups(value)

    def test_weight_decay_and_head_scale(self) -> None:
        with pytest.raises(ValueError, match=r"weight_decay=-0\.1 must be a number 0 or above, such as 0\.05\."):
            swin().param_groups(0.1, -0.1)
        with pytest.raises(ValueError, match=r"head_lr_scale=0 must be a number above 0, such as 10\."):
            swin().param_groups(0.1, head_lr_scale=0)

    def test_nothing_to_group(self) -> None:
        with pytest.raises(ValueError, match=r"^Identity has no parameters to group\. .* out_indices=\(-1,\)\.$"):
            param_groups(nn.Identity(), 0.1)
        model = swin()
        model.freeze()
        model.hidden_states_norms.requires_grad_(False)
        with pytest.raises(ValueError, match=r"^All \d+ parameters of SwinBackbone are frozen.*backbone\.unfreeze\(\)"):
            model.param_groups(0.1)
        with pytest.raises(TypeError, match=r"takes a module, got list\. Call param_groups\(model, lr=1e-4\)\."):
            param_groups([*model.parameters()], 0.1)

    def test_layers_without_a_backbone(self) -> None:
        model = ResNetForImageClassification(ResNetConfig(**TINY_RESNET))
        with pytest.raises(
            ValueError, match=r"^layer_decay=0\.5 needs a backbone .*ResNetForImageClassification holds none"
        ):
            param_groups(model, 0.1, layer_decay=DECAY)
        with pytest.raises(ValueError, match=r"^head_lr_scale=2 needs a backbone"):
            param_groups(model, 0.1, head_lr_scale=2)
        each_once(param_groups(model, 0.1), model)

    def test_patterns(self) -> None:
        model = swin()
        found = table(model.param_groups(0.1, no_decay=["projection.weight", "encoder.layers.2.*"]))
        decays = {name for name, (_, decay) in found.items() if decay}
        assert decays
        assert not any(name.endswith("projection.weight") or name.startswith("encoder.layers.2.") for name in decays)
        assert (
            table(model.param_groups(0.1, no_decay="projection.weight"))[
                "embeddings.patch_embeddings.projection.weight"
            ][1]
            == 0
        )
        with pytest.raises(ValueError, match=r"holds 'relative_position_bias', which matches no parameter of SwinBackbone\. Did "
                           r"you mean 'relative_position_bias_table'\?.* the names are embeddings\."):  # fmt: skip
            model.param_groups(0.1, no_decay=["relative_position_bias"])
