"""Against transformers 5, live: maps, states, attentions, losses, gradients and files of every native family.

The oracle computes the expected values from the files it wrote, one for each class of a row. fp32 results agree to 1e-5 of
the largest value, float64 gradients to 1e-9.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbone_rows import ROWS, Checkpoint, Row, pixels
from oracle import close, gradients_as_saved, save_with_transformers, saved_keys

Saved = Callable[[Row, str], Checkpoint]
REAL = [
    pytest.param(row, kwargs, id=f"{row.name}-{number}")
    for row in ROWS.values()
    if row.default is not None
    for number, kwargs in enumerate(({}, *row.default.variants))
]


def load(row: Row, kind: str, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Load, and assert that everything odd is explained and nothing has another shape."""
    model, info = row.ours(kind).from_pretrained(folder, output_loading_info=True, **kwargs)
    assert info["mismatched_keys"] == []
    odd = [*info["missing_keys"], *info["unexpected_keys"]]
    assert [key for key in odd if key not in info["explained"]] == []
    return model, info


def compare(row: Row, theirs: Any, ours: Any, x: torch.Tensor) -> None:
    """Compare the maps of ours with those of all stages, and the states and attentions as far as ours go."""
    every, stages = range(row.first, len(ours.stages)), ours.final_stage(output_hidden_states=True) + 1
    with torch.no_grad():
        expected, actual = row.expect(theirs, x, every, **row.asked), ours(x, **row.asked)
    close(actual.feature_maps, [expected.feature_maps[index - row.first] for index in ours.selected], name="maps")
    if row.states:
        assert len(expected.hidden_states) == len(ours.stages)
        pairs = zip(actual.hidden_states, expected.hidden_states[:stages], strict=True)
        states = [
            here.flatten(2).mT if here.ndim == there.ndim + 1 else here for here, there in pairs
        ]  # maps as tokens
        close(states, expected.hidden_states[:stages], name="hidden_states")
    if row.states and row.attentions:
        count = sum(row.attentions[:stages]) if stages < len(ours.stages) else len(expected.attentions)
        close(actual.attentions, expected.attentions[:count], name="attentions")


def as_there(row: Row, folder: Path) -> set[str]:
    """Names of what we saved, as transformers 5 spells them."""
    written = saved_keys(folder)
    assert all(name.startswith(row.spelled) for name in written)
    return {name.removeprefix(row.spelled) for name in written}


def matches(keys: Iterable[str], patterns: Iterable[str]) -> None:
    """Assert that each key fits one of the patterns, and each pattern a key."""
    keys, patterns = list(keys), list(patterns)
    assert [key for key in keys if not any(re.search(pattern, key) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(re.search(pattern, key) for key in keys)] == [], keys


class TestBackbones:
    def test_maps_states_and_attentions(self, compared: Row, saved: Saved) -> None:
        theirs = saved(compared, "Backbone")
        ours, info = load(compared, "Backbone", theirs.folder, out_indices=list(compared.indices))
        assert info["missing_keys"] == []
        if compared.oracle is None:
            assert ours.out_features == theirs.model.out_features
            assert ours.channels == theirs.model.channels
        for size in compared.their_sizes:
            compare(compared, copy.deepcopy(theirs.model), ours, pixels(size))

    def test_selections(self, compared: Row, saved: Saved) -> None:
        theirs = saved(compared, "Backbone")
        for selection in ([compared.first], [compared.first + 1, -1], [-2]):
            ours, info = load(compared, "Backbone", theirs.folder, out_indices=selection)
            assert info["missing_keys"] == []
            compare(compared, copy.deepcopy(theirs.model), ours, pixels(compared.their_sizes[-1]))

    def test_gradients_in_float64(self, compared: Row, saved: Saved, tmp_path: Path) -> None:
        checkpoint = saved(compared, "Backbone")
        theirs = copy.deepcopy(checkpoint.model).double()
        if compared.attentions and theirs._supports_sdpa:
            theirs.set_attn_implementation("sdpa")  # the eager one computes its softmax in float32
        kwargs = {"out_indices": list(compared.indices)}
        ours, _ = load(compared, "Backbone", checkpoint.folder, dtype="float64", **kwargs)
        x = pixels(compared.their_sizes[min(1, len(compared.their_sizes) - 1)]).double()
        inputs, weights = [], None
        for call in (ours, lambda x: compared.expect(theirs, x)):
            maps = call(leaf := x.clone().requires_grad_()).feature_maps
            weights = weights or [torch.randn_like(m) for m in maps]
            sum((m * w).sum() for m, w in zip(maps, weights, strict=True)).backward()
            inputs.append(leaf.grad)
        close(*inputs, tol=1e-9, name="gradient of the input")
        gradients_as_saved(theirs, tmp_path)
        expected = dict(row_parameters(compared, tmp_path, **kwargs))
        expected = {name: gradient for name, gradient in expected.items() if gradient.numel()}  # no registers
        largest = max(gradient.abs().max() for gradient in expected.values())
        for name, parameter in ours.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            if name not in expected:
                continue
            if expected[name].abs().max() < 1e-14 * largest:  # a softmax does not see the keys' bias
                assert parameter.grad.abs().max() < 1e-14 * largest, name
                continue
            close(parameter.grad, expected[name], tol=1e-9, name=f"gradient of {name}")

    def test_training_mode_of_norms(self, compared: Row, saved: Saved, tmp_path: Path) -> None:
        # batch statistics are computed and stored alike; random layers are off by configuration
        off = {name: 0.0 for name in compared.kwargs if "drop" in name}
        theirs = compared.their_model("Backbone", **off)
        theirs.load_state_dict(saved(compared, "Backbone").model.state_dict())
        theirs.train()
        folder = saved(compared, "Backbone").folder
        ours, _ = load(compared, "Backbone", folder, out_indices=list(compared.indices), **off)
        x = pixels(compared.their_sizes[0], batch=3)
        close(ours.train()(x).feature_maps, compared.expect(theirs, x).feature_maps)
        if not any("running" in name for name, _ in ours.named_buffers()):
            return
        theirs.save_pretrained(tmp_path)
        again, _ = load(compared, "Backbone", tmp_path, out_indices=list(compared.indices))
        for name, buffer in ours.named_buffers():
            close(buffer, again.get_buffer(name), name=name)

    def test_transformers_reads_what_vertebra_saved(self, compared: Row, saved: Saved, tmp_path: Path) -> None:
        theirs = saved(compared, "Backbone")
        x = pixels(compared.their_sizes[-1])
        with torch.no_grad():
            expected = compared.expect(copy.deepcopy(theirs.model), x).feature_maps
        for selection in (list(compared.indices), [compared.first + 1]):
            folder = tmp_path / str(len(selection))
            ours, _ = load(compared, "Backbone", theirs.folder, out_indices=selection)
            ours.save_pretrained(folder)
            written, there = as_there(compared, folder), saved_keys(theirs.folder)
            assert written <= there
            back, info = type(theirs.model).from_pretrained(
                folder, output_loading_info=True, attn_implementation="eager" if compared.attentions else None
            )
            assert list(info["unexpected_keys"]) == list(info["mismatched_keys"]) == []
            if len(selection) > 1:
                dead = rf"{compared.dead}|{compared.only_in_model}" if compared.oracle else compared.dead
                assert [key for key in info["missing_keys"] if not re.search(dead, key)] == []
                assert [key for key in there - written if not re.search(dead, key)] == []
            with torch.no_grad():
                maps = compared.expect(back.eval(), x, selection).feature_maps
            close(maps, [expected[index - compared.first] for index in selection], name=str(selection))


def row_parameters(row: Row, folder: Path, **kwargs: Any) -> Iterable[tuple[str, torch.Tensor]]:
    """What a folder holds for the parameters of a backbone, under our names."""
    return load(row, "Backbone", folder, dtype="float64", **kwargs)[0].named_parameters()


class TestConfigurations:
    DERIVED = {"id2label", "label2id", "pooler_output_size"}
    """Null here stands for the value that transformers derives."""

    def test_keys_and_defaults(self, main_row: Row) -> None:
        theirs = main_row.their_class("Backbone").config_class()
        there = json.loads(theirs.to_json_string(use_diff=False))
        here = json.loads(json.dumps(main_row.backbone.config_class().to_dict()))
        general = set(transformers.PreTrainedConfig().to_dict())
        assert there.keys() - here.keys() - general == set()
        common = (here.keys() & there.keys()) - {*main_row.corrected}
        differ = {name: (here[name], there[name]) for name in common if here[name] != there[name]}
        assert {name: pair for name, pair in differ.items() if name not in self.DERIVED or pair[0] is not None} == {}
        loaded = json.loads(json.dumps(main_row.backbone.config_class.from_dict(there).to_dict()))
        assert {name: (loaded[name], there[name]) for name in common if loaded[name] != there[name]} == {}

    def test_both_read_the_other_s_file(self, compared: Row, saved: Saved, tmp_path: Path) -> None:
        theirs = saved(compared, "Backbone")
        config = compared.backbone.config_class.from_pretrained(theirs.folder)
        config.save_pretrained(tmp_path)
        back = type(theirs.model.config).from_pretrained(tmp_path)
        before, after = (json.loads((folder / "config.json").read_text()) for folder in (theirs.folder, tmp_path))
        assert {name: value for name, value in before.items() if name in after and after[name] != value} == {}
        assert {name for name in before if not hasattr(back, name)} <= {"stage_names"}


class TestModels:
    def test_model_without_head(self, compared: Row, saved: Saved) -> None:
        if "Model" not in compared.kinds:
            return
        theirs = saved(compared, "Model")
        ours, info = load(compared, "Model", theirs.folder)
        assert info["missing_keys"] == info["unexpected_keys"] == []
        for size in compared.their_sizes:
            x = pixels(size)
            fresh = copy.deepcopy(theirs.model)  # a small image changes the windows of Swin for all later ones
            with torch.no_grad():
                expected, actual = fresh(x, **compared.asked, **compared.call), ours(x, **compared.asked)
                plain = ours(x, return_dict=False)
            assert list(actual) == [name for name in expected if expected[name] is not None]
            for name in actual:
                close(actual[name], expected[name], name=f"{name} at {size}")
            on_request = ("hidden_states", "attentions", "reshaped_hidden_states")
            close(plain, [actual[name] for name in actual if name not in on_request])

    def test_classifier_and_its_loss(self, compared: Row, saved: Saved) -> None:
        if "ForImageClassification" not in compared.kinds:
            return
        theirs = saved(compared, "ForImageClassification")
        ours, info = load(compared, "ForImageClassification", theirs.folder)
        assert info["missing_keys"] == info["unexpected_keys"] == []
        x, labels = pixels(compared.their_sizes[0]), torch.tensor([1, 0])
        twin = copy.deepcopy(theirs.model)
        expected = twin(x, labels=labels, **compared.asked, **compared.call)
        actual = ours(x, labels=labels, **compared.asked)
        assert list(actual) == [name for name in expected if expected[name] is not None]
        for name in actual:
            close(actual[name], expected[name], name=name)
        expected.loss.backward()
        actual.loss.backward()
        heads = [name for name, _ in ours.named_parameters() if re.search(compared.head, name)]
        assert heads
        for name in heads:
            close(ours.get_parameter(name).grad, twin.get_parameter(name).grad, name=name)

    def test_transformers_reads_saved_models(self, compared: Row, saved: Saved, tmp_path: Path) -> None:
        for kind in compared.kinds:
            theirs = saved(compared, kind)
            load(compared, kind, theirs.folder)[0].save_pretrained(tmp_path / kind)
            assert as_there(compared, tmp_path / kind) == saved_keys(theirs.folder)
            back, info = type(theirs.model).from_pretrained(tmp_path / kind, output_loading_info=True)
            assert {name: set(keys) for name, keys in info.items() if keys} == {}
            for name, tensor in theirs.model.state_dict().items():
                close(back.state_dict()[name], tensor, tol=0.0, name=name)


class TestFilesOfOtherClasses:
    def test_a_classifier_s_file_in_a_backbone(self, classified: Row, saved: Saved) -> None:
        theirs = saved(classified, "ForImageClassification")
        ours, info = load(classified, "Backbone", theirs.folder, out_indices=list(classified.indices))
        matches(info["missing_keys"], classified.missing)
        matches(info["unexpected_keys"], classified.unexpected)
        expected, _ = load(classified, "ForImageClassification", theirs.folder)
        base = dict(getattr(expected, expected.base_model_prefix, expected).state_dict())
        trunk = [name for name in ours.state_dict() if name not in info["missing_keys"]]
        assert trunk
        for name in trunk:
            spelled = name.removeprefix(f"{expected.base_model_prefix}.")
            close(ours.state_dict()[name], base[spelled if spelled in base else name], tol=0.0, name=name)

    def test_files_of_all_other_pairs(self, classified: Row, saved: Saved) -> None:
        """The parts both classes have come through; what is missing or left over is explained, and what the row says."""
        if "Model" not in classified.kinds:
            return
        base = classified.ours("Model").base_model_prefix
        odd = (*classified.missing, *classified.unexpected, classified.head, classified.only_in_model, classified.dead)
        odd = [pattern.replace(rf"^{base}\.", "^").replace("^", rf"^({base}\.)?") for pattern in odd]
        for source, target in (
            ("Model", "Backbone"),
            ("Model", "ForImageClassification"),
            ("ForImageClassification", "Model"),
            ("Backbone", "Model"),
            ("Backbone", "ForImageClassification"),
        ):
            _, info = load(classified, target, saved(classified, source).folder)
            keys = [*info["missing_keys"], *info["unexpected_keys"]]
            assert [key for key in keys if not any(re.search(pattern, key) for pattern in odd)] == [], (source, target)


class TestClassifiers:
    LOSSES = [
        ("single_label_classification", torch.tensor([2, 0]), 3),
        ("multi_label_classification", torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        ("regression", torch.tensor([0.3, -1.2]), 1),
        ("regression", torch.tensor([[0.3, -1.2, 4.0], [0.1, 0.2, 0.3]]), 3),
        (None, torch.tensor([2, 0]), 3),
        (None, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        (None, torch.tensor([0.3, -1.2]), 1),
    ]

    @pytest.mark.parametrize("name", ["swin", "resnet-basic"])
    @pytest.mark.parametrize(("problem", "labels", "count"), LOSSES)
    def test_losses(self, name: str, problem: str | None, labels: torch.Tensor, count: int, tmp_path: Path) -> None:
        row = ROWS[name]
        theirs = row.their_model("ForImageClassification", num_labels=count, problem_type=problem)
        theirs = save_with_transformers(theirs, tmp_path)
        ours, info = load(row, "ForImageClassification", tmp_path)
        assert info["missing_keys"] == info["unexpected_keys"] == []
        x = pixels(row.their_sizes[0])
        expected, actual = theirs(x, labels=labels), ours(x, labels=labels)
        close(actual.loss, expected.loss, name="loss")
        close(actual.logits, expected.logits, name="logits")
        expected.loss.backward()
        actual.loss.backward()
        head = next(name for name, _ in ours.named_parameters() if re.search(row.head, name))
        close(ours.get_parameter(head).grad, theirs.get_parameter(head).grad, name=head)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "kwargs"), REAL)
def test_real_shapes(row: Row, kwargs: dict[str, Any], tmp_path: Path) -> None:
    cls = row.their_class("Backbone")
    indices = list(range(row.first, len(row.backbone.config_class(**kwargs).stage_names)))
    selection = {} if row.oracle else {"out_indices": indices}
    # through JSON: transformers cannot build from some of its own default tuples
    config = json.loads(cls.config_class(**kwargs, **selection).to_json_string(use_diff=False))
    theirs = save_with_transformers(cls(cls.config_class.from_dict(config)), tmp_path, scale=0.02)
    ours, info = load(row, "Backbone", tmp_path, out_indices=indices)
    assert info["missing_keys"] == []
    for size in row.default.sizes:
        compare(row, theirs, ours, pixels(size, batch=1))
