from vertebra.config import PretrainedConfig as PretrainedConfig
from vertebra.config import PreTrainedConfig as PreTrainedConfig
from vertebra.backbones.config import BackboneConfigMixin as BackboneConfigMixin
