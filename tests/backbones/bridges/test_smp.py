"""Our encoders in the models of segmentation-models-pytorch: shapes, training on a real photo, smp's own encoders as oracle."""

import copy
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import tiny
import torch
import torch.nn.functional as F
from labelled import labelled_photo
from oracle import close, perturb, same
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from vertebra import (
    AutoBackbone,
    ResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
    pyramid,
    register_smp_encoder,
)

RANDOM: dict[str, Any] = {"use_pretrained_backbone": False}
RESNET = ResNetConfig(**tiny.RESNET)
SWIN = SwinConfig(embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4)
VIT = TimmBackboneConfig(
    "vit_tiny_patch16_224",
    model_args={"depth": 2, "embed_dim": 24, "num_heads": 2, "dynamic_img_size": True},
    **RANDOM,
)
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a-resnet": (RESNET, {}),
    "a-swin": (SWIN, {"size_policy": "pad"}),
    "a-vit": (VIT, {"channels": 16}),
    "a-timm": ("test_resnet", RANDOM),
    "a-neck": (RESNET, {"channels": 16, "neck": "auto"}),
    "a-function": (lambda **changes: pyramid("test_resnet", (2, 4, 8, 16, 32), 16, **RANDOM, **changes), {}),
}
CHANNELS = {
    "a-resnet": [0, 8, 16, 32, 64],
    "a-swin": [0, 12, 24, 48, 96],
    "a-vit": [0, 16, 16, 16, 16],
    "a-timm": [32, 32, 48, 192, 96],
    "a-neck": [16] * 5,
    "a-function": [16] * 5,
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """All kinds of encoders under their names, for one test."""
    before = dict(encoders)
    for name, (backbone, kwargs) in KINDS.items():
        register_smp_encoder(name, backbone, **kwargs)
    yield
    encoders.clear()
    encoders.update(before)


def build(model: str, name: str, **kwargs: Any) -> Any:
    return getattr(smp, model)(name, encoder_weights=None, classes=5, **kwargs)


@pytest.mark.parametrize("name", KINDS)
def test_shapes(name: str) -> None:
    encoder = build("Unet", name, in_channels=4).encoder.eval()
    assert encoder.out_channels == [4, *CHANNELS[name]]
    assert encoder.output_stride == 32
    pixels = torch.randn(2, 4, 64, 96)
    image, *maps = encoder(pixels)
    assert image is pixels
    expected = [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip(CHANNELS[name], (2, 4, 8, 16, 32), strict=True)
    ]
    assert [tuple(level.shape) for level in maps] == expected


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *((model, name) for model in ("Unet", "FPN") for name in KINDS),
        *(
            (model, "a-resnet")
            for model in ("UnetPlusPlus", "MAnet", "Linknet", "PSPNet", "PAN", "UPerNet", "Segformer")
        ),
        ("DeepLabV3", "a-timm"),
        ("DeepLabV3Plus", "a-resnet"),
        ("PSPNet", "a-function"),
    ],
)
def test_every_model_builds_and_answers_to_its_input(model: str, name: str) -> None:
    net = build(model, name).eval()
    pixels = torch.randn(1, 3, 128, 128)  # PAN pools the last map three times
    with torch.no_grad():
        scores = net(pixels)
        assert scores.shape == (1, 5, 128, 128)
        assert (net(pixels.flip(-1)) - scores).abs().max() > 0


@pytest.mark.parametrize(("model", "name"), [("Unet", "a-resnet"), ("FPN", "a-swin"), ("Unet", "a-vit")])
def test_trains_on_a_real_photo(model: str, name: str) -> None:
    photo, objects = labelled_photo()
    target = (objects["masks"] * objects["labels"][:, None, None].byte()).amax(0).long()[None]
    image, target = photo[None, :, :160, :192], target[:, :160, :192]
    net = build(model, name)
    assert all(module.training for module in net.modules())
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3]), losses
    assert all(p.grad is not None for p in net.encoder.parameters())


@pytest.mark.parametrize("model", ["Unet", "FPN"])
@pytest.mark.parametrize("architecture", ["resnet18", "test_convnext"])
def test_it_is_the_function_of_smps_own_encoder(model: str, architecture: str) -> None:
    register_smp_encoder("ours", architecture, **RANDOM)
    theirs = perturb(build(model, f"tu-{architecture}"), scale=0.02).eval()
    ours = build(model, "ours").eval()
    state = {re.sub(r"^(stem|stages)_", r"\1.", name): t for name, t in theirs.encoder.model.state_dict().items()}
    ours.encoder.body.load_state_dict(state)
    for part in ("decoder", "segmentation_head"):
        getattr(ours, part).load_state_dict(getattr(theirs, part).state_dict())
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        close(ours.encoder(pixels), theirs.encoder(pixels), tol=1e-5)
        close(ours(pixels), theirs(pixels), tol=1e-5)
    assert ours.encoder.out_channels == theirs.encoder.out_channels


def test_dilated_it_is_the_function_of_smps_own_encoder() -> None:
    register_smp_encoder("ours", "resnet18", **RANDOM)
    theirs = perturb(build("DeepLabV3Plus", "tu-resnet18"), scale=0.02).eval()
    ours = build("DeepLabV3Plus", "ours").eval()
    ours.encoder.body.load_state_dict(theirs.encoder.model.state_dict())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = ours.encoder(pixels)
        close(maps, theirs.encoder(pixels), tol=1e-5)
    assert maps[-1].shape[-2:] == (4, 6)
    assert ours.encoder.output_stride == theirs.encoder.output_stride == 16


def test_depth_reaches_the_backbone() -> None:
    for name in ("a-timm", "a-function"):
        net = build("Unet", name, encoder_depth=3, decoder_channels=(32, 16, 8))
        assert net.encoder.out_channels == [3, *CHANNELS[name][:3]]
        assert net.encoder.output_stride == 8
    shallow = build("Unet", "a-timm", encoder_depth=3, decoder_channels=(8, 8, 8))
    assert not [name for name, _ in shallow.encoder.body.named_parameters() if name.startswith(("layer3", "layer4"))]


def test_odd_sizes() -> None:
    for name in ("a-resnet", "a-timm", "a-swin"):
        assert build("Unet", name).eval()(torch.randn(1, 3, 75, 107)).shape == (1, 5, 75, 107)


def test_checkpoints_configurations_and_models_of_their_own(tmp_path: Any) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], out_indices=[1, 2, 3, 4])
    saved = perturb(AutoBackbone.from_config(config)).eval()
    saved.save_pretrained(tmp_path)
    register_smp_encoder("saved", tmp_path, freeze="stage2")
    first, second = build("Unet", "saved"), build("Unet", "saved")
    assert not first.encoder.body.embedder.training
    pixels = torch.randn(1, 3, 64, 64)
    # what is frozen needs no gradient, and runs fused
    close(tuple(first.encoder.eval()(pixels)[2:]), saved(pixels).feature_maps)
    nn.init.zeros_(first.encoder.body.encoder.stages[3].layers[0].layer[0].convolution.weight)
    close(tuple(second.encoder.eval()(pixels)[2:]), saved(pixels).feature_maps)
    assert config.out_indices == [1, 2, 3, 4]
    register_smp_encoder("five", ResNetConfig(num_channels=5))
    with pytest.raises(ValueError, match=r"num_channels=5, the model in_channels=3. Pass in_channels=5"):
        build("Unet", "five")
    assert build("Unet", "five", in_channels=5).encoder.out_channels[0] == 5


def test_models_are_copied_pickled_and_saved(tmp_path: Any) -> None:
    net = perturb(build("FPN", "a-function")).eval()
    net.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), smp.from_pretrained(tmp_path).eval()):
            same(twin(pixels), net(pixels))


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match=r"encoder_weights='imagenet' is not for this encoder.*encoder_weights=None"):
        smp.Unet("a-resnet")
    with pytest.raises(ValueError, match=r"name='resnet18' is one of smp's own encoders.*'vertebra-resnet18'"):
        register_smp_encoder("resnet18", RESNET)
    with pytest.raises(ValueError, match=r"name='tu-mine' begins like tu-"):
        register_smp_encoder("tu-mine", RESNET)
    with pytest.raises(TypeError, match=r"this ResNetBackbone is built: pass its name, its .config"):
        register_smp_encoder("built", AutoBackbone.from_config(RESNET))
    with pytest.raises(TypeError, match=r"out_indices cannot be given"):
        register_smp_encoder("chosen", RESNET, out_indices=[1])
    register_smp_encoder("misspelt", "resnet5o")
    with pytest.raises((OSError, ValueError), match="resnet50"):
        build("Unet", "misspelt")
    with pytest.raises(ValueError, match=r"output_stride=16 is not possible here: Swin"):
        build("DeepLabV3Plus", "a-swin")
    with pytest.raises(ValueError, match=r"encoder_output_stride=16 dilates .* a neck makes strides 4, 8, 16, 32"):
        build("DeepLabV3Plus", "a-vit")
    register_smp_encoder("few", lambda: pyramid(RESNET, (4, 8), 16))
    with pytest.raises(
        ValueError,
        match=r"needs strides 2, 4, 8, 16, 32 \(2 may be left out\); this FPN returns 4, 8. .*strides=\(2, 4",
    ):
        build("Unet", "few")
    register_smp_encoder("rigid", lambda: pyramid(RESNET, (2, 4, 8, 16, 32), 16))
    with pytest.raises(TypeError, match=r"called with num_channels=4, which it does not take .*\*\*changes"):
        build("Unet", "rigid", in_channels=4)


def test_the_library_is_optional() -> None:
    code = (
        "import sys; sys.modules['segmentation_models_pytorch'] = None\n"
        "from vertebra import ResNetConfig, register_smp_encoder, to_dict, to_torchvision\n"
        "register_smp_encoder('mine', ResNetConfig())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == (
        "ImportError: register_smp_encoder needs segmentation-models-pytorch: pip install segmentation-models-pytorch"
    )
