"""What a run is: one frozen, strict record per part, read from one YAML file and dotted overrides.

    config = load_config("configs/tiny.yaml", ["data.root=/data/sim", "train.learning_rate=1e-3"])

An unknown key, a wrong type or a value out of range fails with the key's path and the file, before anything else is
done. There are no includes and no registry: what the file says is what runs.
"""

from fusionperc.config.reading import ConfigError, build_config, load_config
from fusionperc.config.records import (
    AugmentationConfig,
    CameraEncoderConfig,
    Config,
    DataConfig,
    DetectionHeadConfig,
    DriveFolder,
    FusionConfig,
    GridConfig,
    ModelConfig,
    ObjectiveConfig,
    PillarEncoderConfig,
    PlanningHeadConfig,
    PlanningObjectiveConfig,
    PretrainingConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "AugmentationConfig",
    "CameraEncoderConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DetectionHeadConfig",
    "DriveFolder",
    "FusionConfig",
    "GridConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PillarEncoderConfig",
    "PlanningHeadConfig",
    "PlanningObjectiveConfig",
    "PretrainingConfig",
    "RunConfig",
    "TrainConfig",
    "build_config",
    "load_config",
]
