"""All Auto classes for tasks: the whole list, which of them have models, and what the others say."""

import pytest
import torch
import transformers

import vertebra
from vertebra import AutoConfig, AutoModel, BertConfig, PreTrainedConfig, PreTrainedModel, SwinConfig
from vertebra.auto import registry
from vertebra.auto.factory import AutoModelFactory

TASKS = """PreTraining CausalLM MaskedLM MaskGeneration Seq2SeqLM SequenceClassification MultipleChoice NextSentencePrediction
TokenClassification QuestionAnswering TextEncoding DepthEstimation ImageClassification VideoClassification MaskedImageModeling
ObjectDetection ImageSegmentation ImageToImage SemanticSegmentation InstanceSegmentation UniversalSegmentation
ZeroShotImageClassification ZeroShotObjectDetection AudioClassification AudioFrameClassification CTC SpeechSeq2Seq AudioXVector
TextToSpectrogram TextToWaveform TableQuestionAnswering DocumentQuestionAnswering VisualQuestionAnswering Vision2Seq""".split()
"""What transformers has, as the names of its classes end."""
AUTO = [getattr(vertebra, f"AutoModelFor{task}") for task in TASKS]
EVERY = pytest.mark.parametrize("auto", AUTO, ids=TASKS)


def backed(auto: type[AutoModelFactory]) -> bool:
    return any(auto.task in family.tasks for family in registry.FAMILIES.values())


def test_the_list() -> None:
    assert len(TASKS) == len(set(TASKS)) == 34
    names = {name for name in vertebra.__all__ if name.startswith("AutoModelFor")}
    assert names == {f"AutoModelFor{task}" for task in TASKS}
    assert len({auto.task for auto in AUTO}) == 34
    for auto in AUTO:
        assert registry.auto_name(auto.task) == auto.__name__
    known = {auto.task for auto in AUTO} | {"model", "backbone"}
    assert {task for family in registry.FAMILIES.values() for task in family.tasks} <= known


@EVERY
def test_backed_or_says_what_is_available(auto: type[AutoModelFactory]) -> None:
    config = SwinConfig() if "text" in auto.__module__ else BertConfig()
    if backed(auto):
        with pytest.raises(
            ValueError, match=rf"{auto.__name__} has no class for {type(config).__name__} .*It has one for \w+"
        ):
            auto.from_config(config)
        return
    text = (
        rf"^{auto.__name__} has no models: nothing in vertebra does this\. Auto classes that have some are AutoBackbone, "
        r"AutoModel, .*AutoModelForMaskedLM.*\. A class of your own is made known by "
        rf"{auto.__name__}\.register\(YourConfig, YourModel\)\.$"
    )
    for ask in (lambda: auto.from_config(config), lambda: auto.from_pretrained("nobody/is-asked")):
        with pytest.raises(ValueError, match=text):
            ask()


def test_every_family_s_classes_exist() -> None:
    """Each name in the table is a class that reads the family's configuration."""
    for model_type, family in registry.FAMILIES.items():
        config = registry.config_class(model_type)
        assert config.model_type == model_type
        for task in family.tasks:
            found = registry.model_class(config, task, registry.auto_name(task))
            assert issubclass(found, PreTrainedModel)


def test_classes_are_those_that_transformers_chooses() -> None:
    """But for maps of more families, and the one task that takes every way to segment."""
    checked = 0
    for model_type, family in registry.FAMILIES.items():
        for task in family.tasks if not model_type.startswith("vertebra_") else ():
            mapping = getattr(transformers, registry.auto_name(task))._model_mapping
            theirs = mapping.get(type(transformers.AutoConfig.for_model(model_type)), None)
            ours = registry.model_class(registry.config_class(model_type), task, registry.auto_name(task))
            if theirs is None:
                assert task in ("backbone", "image_segmentation"), (model_type, task)
            else:
                several = theirs if isinstance(theirs, tuple) else (theirs,)
                assert ours.__name__ in [cls.__name__ for cls in several], (model_type, task)
                checked += 1
    assert checked >= 36


def test_backed_tasks() -> None:
    names = [auto.__name__.removeprefix("AutoModelFor") for auto in AUTO if backed(auto)]
    assert {
        "PreTraining", "MaskedLM", "SequenceClassification", "MultipleChoice", "NextSentencePrediction", "TokenClassification",
        "QuestionAnswering", "TextEncoding", "ImageClassification", "ImageSegmentation", "SemanticSegmentation",
        "InstanceSegmentation", "UniversalSegmentation", "AudioClassification", "AudioFrameClassification", "AudioXVector", "CTC",
        "SpeechSeq2Seq",
    } <= set(names)  # fmt: skip


def test_the_error_of_a_family_names_its_other_classes() -> None:
    with pytest.raises(
        ValueError, match=r"Other Auto classes have one: AutoModel, AutoModelForTextEncoding, AutoModelForMaskedLM"
    ):
        vertebra.AutoModelForImageClassification.from_config(BertConfig())


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_configs", dict(registry._configs))
    monkeypatch.setattr(registry, "_models", {task: dict(models) for task, models in registry._models.items()})


@EVERY
@pytest.mark.usefixtures("registered")
def test_one_s_own_class(auto: type[AutoModelFactory], tmp_path) -> None:
    class OwnConfig(PreTrainedConfig):
        """One number."""

        model_type = "own"
        width: int = 3

    class OwnModel(PreTrainedModel):
        """One layer."""

        config_class = OwnConfig

        def __init__(self, config: OwnConfig) -> None:
            super().__init__(config)
            self.layer = torch.nn.Linear(config.width, 1)
            self.post_init()

    AutoConfig.register("own", OwnConfig)
    auto.register(OwnConfig, OwnModel)
    auto.from_config(OwnConfig(width=5)).save_pretrained(tmp_path)
    model = auto.from_pretrained(tmp_path)
    assert (type(model), model.layer.in_features) == (OwnModel, 5)
    with pytest.raises(ValueError, match="OwnConfig has a class here already; pass exist_ok=True"):
        auto.register(OwnConfig, OwnModel)
    with pytest.raises(ValueError, match="they must be equal"):
        auto.register(BertConfig, OwnModel, exist_ok=True)
    with pytest.raises(ValueError, match=r"AutoModel has no class for OwnConfig"):
        AutoModel.from_config(OwnConfig())


@EVERY
def test_is_not_constructed(auto: type[AutoModelFactory]) -> None:
    with pytest.raises(
        OSError, match=rf"{auto.__name__} is not constructed itself: call {auto.__name__}\.from_pretrained"
    ):
        auto()
