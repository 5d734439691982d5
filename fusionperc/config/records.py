"""The records of a configuration: one frozen, strict pydantic model per part; see `fusionperc.config`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fusionperc.geometry import BevGrid
from fusionperc.types import Sensor, sensors_from_letters


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False, protected_namespaces=())


class AugmentationConfig(_Record):
    """Ranges of the random augmentation of training samples; see `data/augment.py`."""

    flip_x: bool = Field(False, description="mirror front and back half of the time")
    flip_y: bool = Field(True, description="mirror left and right half of the time")
    mirrored_headings: bool = Field(
        True, description="whether mirrored samples teach where objects head: there all drive on the other side"
    )
    rotation_rad: float = Field(0.4, ge=0, le=math.pi, description="yaw rotation drawn from +- this")
    scale: tuple[float, float] = Field((0.95, 1.05), description="range of the uniform scale of space")
    image_zoom: tuple[float, float] = Field((0.95, 1.15), description="range of picture zoom beyond fitting the width")
    image_colour: float = Field(0.2, ge=0, lt=1, description="relative jitter of brightness, contrast, saturation")
    lidar_gain: float = Field(1.0, ge=1, description="LiDAR intensities are multiplied by up to this, or its inverse")
    lidar_dropout: float = Field(0.0, ge=0, lt=1, description="up to this share of a sample's LiDAR points is left out")

    @field_validator("scale", "image_zoom")
    @classmethod
    def _is_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)}: give the lower, then the upper factor, both above 0")
        return value

    @classmethod
    def none(cls) -> Self:
        """No augmentation: what evaluation uses."""
        return cls(flip_x=False, flip_y=False, rotation_rad=0, scale=(1, 1), image_zoom=(1, 1), image_colour=0)


class DriveFolder(_Record):
    """A split of a nuScenes folder, with or without annotation tables."""

    root: Path
    version: str = "v1.0-trainval"
    split: str = "all"


class DataConfig(_Record):
    """Which nuScenes folder, which part of it, and how a sample is read."""

    root: Path = Field(Path("data/sim"), description="folder that holds the version folder, samples/ and sweeps/")
    version: str = Field("v1.0-mini", description="name of the table folder, e.g. v1.0-mini or v1.0-trainval")
    train_split: str = Field("mini_train", description="drives to train on")
    split: str = Field("mini_val", description="held-out drives: validation during training, and evaluation")
    drives: tuple[DriveFolder, ...] = Field(
        (), description="further folders to train on, whole; drives without annotations teach depth and plans only"
    )
    scenes: tuple[str, ...] | None = Field(None, description="keep only these drives, e.g. [scene-0061]")
    label_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the train split's drives, whole ones, that training sees the labels of"
    )
    label_seed: int = Field(0, ge=0, description="which drives those are; a larger share holds those of a smaller")
    missing: Literal["skip", "absent_sensor", "error"] = Field(
        "error", description="what to do with a sample whose sensor files are not on disk"
    )
    lidar_sweeps: int = Field(10, ge=1, le=20, description="LiDAR sweeps per sample, the key frame included")
    lidar_sweep_stride: int = Field(
        1, ge=1, le=5, description="every so many LiDAR sweeps one is read: 2 looks twice as far back"
    )
    radar_sweeps: int = Field(6, ge=1, le=20, description="sweeps per radar, the key frame included")
    image_size: tuple[int, int] = Field((128, 352), description="height, width of a picture as the model sees it, px")
    command: Literal["endpoint", "route"] = Field(
        "endpoint",
        description="where the driving command comes from: the ego's recorded place after 3 s, as nuScenes' planners "
        "do (it tells the answer), or the recorded route, as simulated drives have it",
    )
    keep_ego_returns: bool = Field(False, description="keep LiDAR points on the ego vehicle's own roof")
    radar_filter: Literal["devkit", "none"] = Field("devkit", description="the devkit's default state filters, or all")
    cache: Path | None = Field(None, description="folder of the index cache; default: <run.dir>/cache")
    batch_size: int = Field(2, ge=1, description="samples per step and device")
    workers: int = Field(2, ge=0, description="loader processes")
    augmentation: AugmentationConfig = AugmentationConfig()

    @field_validator("image_size")
    @classmethod
    def _divisible(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 32 or value[0] % 32 or value[1] % 32:
            raise ValueError(f"{list(value)}: height and width must be multiples of 32 px")
        return value


class GridConfig(_Record):
    """The bird's-eye-view grid in which everything is fused."""

    range_m: float = Field(51.2, gt=0, description="half side of the square around the ego")
    z_min_m: float = -5.0
    z_max_m: float = 3.0
    cell_m: float = Field(0.8, gt=0)

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        self.grid()
        return self

    def grid(self) -> BevGrid:
        return BevGrid(
            -self.range_m, self.range_m, -self.range_m, self.range_m, self.z_min_m, self.z_max_m, self.cell_m
        )


class CameraEncoderConfig(_Record):
    backbone: Literal["resnet18", "resnet50", "convnext_tiny", "efficientnet_lite0"] = "efficientnet_lite0"
    weights: Literal["none", "imagenet"] | Path = Field(
        "imagenet",
        description="'imagenet' takes the installed or cached ImageNet weights, a path a state dict, or 'none'",
    )
    channels: int = Field(64, ge=8, description="channels of the picture features and of the camera BEV")
    depth_min_m: float = Field(1.0, gt=0)
    depth_max_m: float = Field(60.0, gt=0)
    depth_bins: int = Field(59, ge=2)
    bev_blocks: int = Field(2, ge=0, description="residual blocks on the camera BEV")

    @model_validator(mode="after")
    def _depths_ascend(self) -> Self:
        if self.depth_max_m <= self.depth_min_m:
            raise ValueError(f"depth_max_m = {self.depth_max_m} must be above depth_min_m = {self.depth_min_m}")
        return self


class PillarEncoderConfig(_Record):
    """LiDAR and radar encoders: pillars, a PointNet, a 2D residual network with a feature pyramid."""

    pillar_m: float = Field(0.4, gt=0, description="side of a pillar; the grid's cell must be 1, 2, 4 ... pillars")
    point_channels: int = Field(32, ge=4)
    channels: tuple[int, ...] = Field(
        (64, 128), min_length=1, description="per stage; each further stage halves the grid"
    )
    blocks: tuple[int, ...] = Field((2, 2), min_length=1, description="residual blocks per stage")

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.channels) != len(self.blocks):
            raise ValueError(f"channels {list(self.channels)} and blocks {list(self.blocks)} must be equally long")
        if min(self.channels) < 1 or min(self.blocks) < 0:
            raise ValueError(
                f"channels {list(self.channels)} must be positive, blocks {list(self.blocks)} not negative"
            )
        return self


class FusionConfig(_Record):
    style: Literal["joint", "co"] = Field("joint", description="one stream (UNITER) or two co-attending ones (ViLBERT)")
    channels: int = Field(64, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    window: int = Field(8, ge=2, description="side of an attention window, cells")
    mlp_ratio: float = Field(2.0, gt=0)
    bev_blocks: int = Field(2, ge=0, description="residual blocks on the fused BEV")


class DetectionHeadConfig(_Record):
    channels: int = Field(64, ge=8)
    queries: int = Field(200, ge=1, description="highest heatmap peaks taken as queries")
    decoder_layers: int = Field(1, ge=0, description="0 is CenterPoint's head")
    heads: int = Field(4, ge=1)
    score_threshold: float = Field(0.01, ge=0, lt=1, description="detections below are not reported")


class PlanningHeadConfig(_Record):
    """The planning head; see `models/planning.py`."""

    channels: int = Field(64, ge=8)
    modes: int = Field(3, ge=1, description="alternative plans, each with a score")
    layers: int = Field(2, ge=1, description="decoder layers of the ego query")
    heads: int = Field(4, ge=1)
    agents: int = Field(32, ge=1, description="surest detections that the ego query attends to")
    motion_modes: int = Field(3, ge=1, description="alternative futures of each agent")
    map: Literal["learnt", "given"] = Field(
        "learnt",
        description="where the drivable area is from: read off the sensors, or a map wherever there is one",
    )
    refine_steps: int = Field(
        30, ge=0, description="steps that move a plan, before it is driven, away from agents and back onto the road"
    )
    shared_gradient: float = Field(
        0.0, ge=0, le=1, description="share of planning's gradient that reaches the fused map and detection queries"
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.channels % self.heads:
            raise ValueError(f"channels = {self.channels} must be a multiple of heads = {self.heads}")
        return self


class ModelConfig(_Record):
    """The network of `models/fusionperc.py`."""

    sensors: str = Field("CRL", description="which encoders exist: C camera, R radar, L LiDAR")
    grid: GridConfig = GridConfig()
    camera: CameraEncoderConfig = CameraEncoderConfig()
    lidar: PillarEncoderConfig = PillarEncoderConfig()
    radar: PillarEncoderConfig = PillarEncoderConfig(pillar_m=0.8, channels=(64,), blocks=(2,))
    fusion: FusionConfig = FusionConfig()
    detection: DetectionHeadConfig = DetectionHeadConfig()
    planning: PlanningHeadConfig | None = Field(None, description="null: no planning head")

    @field_validator("sensors")
    @classmethod
    def _known(cls, value: str) -> str:
        sensors_from_letters(value)
        return value.upper()

    @property
    def sensor_names(self) -> tuple[Sensor, ...]:
        return sensors_from_letters(self.sensors)

    @model_validator(mode="after")
    def _pillars_fit(self) -> Self:
        for name, encoder in (("lidar", self.lidar), ("radar", self.radar)):
            ratio = self.grid.cell_m / encoder.pillar_m
            if ratio < 1 or abs(math.log2(ratio) - round(math.log2(ratio))) > 1e-6:
                raise ValueError(
                    f"{name}.pillar_m = {encoder.pillar_m} m: "
                    f"grid.cell_m = {self.grid.cell_m} m must be 1, 2, 4 ... times it"
                )
        if self.fusion.channels % self.fusion.heads or self.detection.channels % self.detection.heads:
            raise ValueError("fusion.channels and detection.channels must be multiples of their heads")
        return self


class ObjectiveConfig(_Record):
    """Weights of the detection losses; see `objectives/detection.py`."""

    heatmap: float = Field(1.0, ge=0)
    sensor_heatmap: float = Field(0.5, ge=0, description="each sensor's own light head: no sensor is ignored")
    classification: float = Field(1.0, ge=0)
    box: float = Field(0.5, ge=0)
    velocity: float = Field(0.2, ge=0, description="relative weight of velocity among the box terms")
    attribute: float = Field(0.1, ge=0)
    depth: float = Field(0.5, ge=0)
    min_points: int = Field(1, ge=0, description="boxes with fewer LiDAR plus radar points are not learnt")
    match_class: float = Field(1.0, ge=0, description="cost of the class when queries are matched")
    match_center: float = Field(0.5, ge=0, description="cost of the centre, per metre")
    match_box: float = Field(0.25, ge=0, description="cost of log-size and of sin/cos of yaw")
    match_reach_m: float = Field(4.0, gt=0, description="queries further from an object are not matched to it")


class PlanningObjectiveConfig(_Record):
    """Weights of the planning losses; see `objectives/planning.py`."""

    total: float = Field(1.0, ge=0, description="of all planning losses beside the detection losses")
    imitation: float = Field(1.0, ge=0)
    mode: float = Field(0.5, ge=0, description="which of the plans is right")
    ego_motion: float = Field(1.0, ge=0, description="the ego's own motion as the sensors tell it")
    motion: float = Field(0.3, ge=0, description="futures of agents")
    motion_mode: float = Field(0.1, ge=0)
    map: float = Field(0.5, ge=0, description="the drivable area")
    collision: float = Field(0.5, ge=0, description="with the predicted futures of agents")
    off_road: float = Field(0.3, ge=0)
    comfort: float = Field(0.1, ge=0)


class PretrainingConfig(_Record):
    """Pretraining on unlabelled drives: weights of its objectives (0 switches one off), what is hidden, what from."""

    drives: tuple[DriveFolder, ...] = Field(
        (), description="folders of unlabelled drives; without any data.root, data.version and data.train_split"
    )
    shards: str | None = Field(
        None, description="stream training drives from shards written by tools/shard.py: their folder or URL"
    )
    likelihood: float = Field(1.0, ge=0, description="of what was measured at the key frame, where it is hidden")
    prediction: float = Field(1.0, ge=0, description="of what is measured in the seconds after it")
    contrast: float = Field(
        0.0,
        ge=0,
        description="between the sensors' maps: each cell against other samples' of its batch (InfoNCE), so it takes "
        "data.batch_size of 8 or more to help; about 0.2",
    )
    matching: float = Field(
        0.0, ge=0, description="whether every two sensors are of one moment and one calibration; about 0.2"
    )
    motion: float = Field(0.5, ge=0, description="which surfaces move, and how fast, as other sweeps tell")
    objects: float = Field(1.0, ge=0, description="boxes of what moves, for a head that detection takes over")
    depth: float = Field(0.5, ge=0, description="part of the likelihood: LiDAR depth along the cameras' rays")
    radar: float = Field(0.2, ge=0, description="part of likelihood and prediction: radar returns and their Doppler")
    pictures: float = Field(
        1.0, ge=0, description="part of the likelihood: what an ImageNet network sees where LiDAR rays end"
    )
    visible: float = Field(0.1, ge=0, le=1, description="weight of rays that end where nothing was hidden")
    mask_lidar: float = Field(0.6, ge=0, lt=1, description="share of the ground whose LiDAR pillars are hidden")
    mask_radar: float = Field(0.6, ge=0, lt=1, description="the same of radar")
    mask_camera: float = Field(0.3, ge=0, lt=1, description="share of the patches of every picture that are hidden")
    mask_block_m: float = Field(6.4, gt=0, description="side of the squares of ground that are hidden together")
    mask_patch_px: int = Field(32, ge=8, description="side of a patch of a picture")
    mask_sensor: float = Field(0.3, ge=0, le=1, description="share of batches in which whole sensors are hidden")
    whole: float = Field(
        0.5, ge=0, le=1, description="share of samples of which no ground and no patch is hidden: they teach what moves"
    )
    whole_after: float = Field(
        0.5, ge=0, le=1, description="share of the steps after which it is every sample: as detection will see them"
    )
    mask_past: float = Field(
        0.2, ge=0, le=1, description="share of samples shown without radar and sweeps before the key frame's"
    )
    mismatched: float = Field(
        0.25, ge=0, lt=1, description="with matching: share of samples made up of what does not belong together"
    )
    rays: int = Field(512, ge=1, description="LiDAR rays of each sweep that are predicted")
    ray_bin_m: float = Field(0.8, gt=0, description="a ray ends in one of these, or beyond them")
    ray_bins: int = Field(90, ge=2)
    layer_m: float = Field(0.5, gt=0, description="height of a voxel of the predicted volume")
    voxels_per_cell: int = Field(2, ge=1, description="voxels of the predicted volume along a cell's side")
    horizon_s: tuple[float, float] = Field((0.5, 3.0), description="a later sweep is drawn from this time ahead")
    contrast_cells: int = Field(256, ge=2, description="cells of each sample told apart")
    contrast_channels: int = Field(32, ge=2)
    temperature: float = Field(0.1, gt=0)

    @field_validator("horizon_s")
    @classmethod
    def _ahead(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)}: give the earlier, then the later time, both above 0")
        return value

    @model_validator(mode="after")
    def _folders_or_shards(self) -> Self:
        if self.shards is not None and self.drives:
            raise ValueError(f"shards = {self.shards}: drives are given, too; keep one of the two")
        return self

    @property
    def wants_surfaces(self) -> bool:
        return self.motion > 0 or self.objects > 0

    @property
    def wants_pictures(self) -> bool:
        return self.likelihood > 0 and self.pictures > 0

    @property
    def wants_matching(self) -> bool:
        return self.matching > 0 and self.mismatched > 0


class TrainConfig(_Record):
    task: Literal["both", "detection", "planning"] = Field(
        "both", description="heads that learn; 'planning' leaves all but the planning head as it is (train.initial)"
    )
    initial: Path | None = Field(None, description="checkpoint whose weights the run starts from; a head may be new")
    init_from: Path | None = Field(
        None, description="pretraining run (folder or checkpoint) whose encoders and fusion the run starts from"
    )
    probe: bool = Field(False, description="the encoders and fusion of train.init_from stay as they are: heads only")
    planning_draws: int = Field(
        2000, ge=1, description="with task 'planning': draws over which the detector is run, once"
    )
    ego_status: Literal["both", "with", "without"] = Field(
        "both", description="whether the planner learns with the ego's status, without it, or each sample both ways"
    )
    steps: int = Field(1000, ge=1, description="optimiser steps of the whole run")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    learning_rate: float = Field(2e-3, gt=0)
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(10.0, gt=0, description="largest norm of the gradient; of planning's by itself")
    backbone_rate: float = Field(0.5, gt=0, description="the picture backbone's rate relative to the encoders'")
    encoder_rate: float = Field(1.0, gt=0, description="the encoders' learning rate relative to the heads'")
    fusion_rate: float = Field(1.0, gt=0, description="the fusion's learning rate relative to the heads'")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32", description="auto: bf16 where the device computes with it, fp32 where that would be slower"
    )
    sensor_dropout: float = Field(0.3, ge=0, le=1, description="share of batches trained on a random sensor subset")
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1, description="processes; more than one trains with DDP")
    class_balanced: bool = Field(True, description="draw samples with rare classes more often (CBGS)")
    validate_every: int = Field(500, ge=1, description="steps between validations")
    validate_samples: int = Field(64, ge=1, description="samples of the held-out split used while training")
    evaluate: bool = Field(True, description="score data.split at the end, into run.dir/report.json")
    save_every: int = Field(200, ge=1, description="steps between checkpoints")
    log_every: int = Field(20, ge=1)


class RunConfig(_Record):
    dir: Path = Field(Path("runs/default"), description="folder of checkpoints, logs, report; made if missing")
    resume: bool = Field(False, description="go on from the folder's last checkpoint, exactly")


class Config(_Record):
    """Everything a run needs; the resolved copy is kept in the run folder as config.yaml."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    planning_objective: PlanningObjectiveConfig = PlanningObjectiveConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _task_has_its_parts(self) -> Self:
        if self.train.initial is not None and self.train.init_from is not None:
            raise ValueError(
                f"train.initial = {self.train.initial} and train.init_from = {self.train.init_from}: give one, a whole "
                "network or a pretrained encoder"
            )
        if self.train.probe and self.train.init_from is None and self.train.initial is None:
            raise ValueError("train.probe: what stays as it is must come from train.init_from: give a pretraining run")
        if self.train.task == "planning" and (self.model.planning is None or self.train.initial is None):
            raise ValueError(
                "train.task = planning: give model.planning and, in train.initial, the checkpoint that detects"
            )
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
