"""The planning head: ego queries that attend to the detected agents, their predicted motion, and the map and scene.

Each of M ego queries knows the driving command and, if it is told, the ego's status; it attends to the agents and to
the bird's-eye view with the drivable area, read off it or given by a map, and gives accelerations and curvatures of a
vehicle that rolls without slip. A plan is therefore smooth and can be driven, whatever the sensors show. Its first
motion is the told one, or else the measured one (`SensorInputs.odometry`), or else, where neither Doppler nor matched
sweeps tell any, what the scene lets it guess. How much of what it learns changes the network
that it builds on is `PlanningHeadConfig.shared_gradient`: with 0, detection learns as if none were planned.

Source: VAD (arXiv 2303.12077) for ego queries that attend to agents and map; UniAD (arXiv 2212.10156) for the motion of
agents from detection queries; BEV-Planner (arXiv 2312.03031) for leaving the ego's status out. Deviates: plans are
controls of a kinematic model, integrated, not free waypoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fusionperc.config import PlanningHeadConfig
from fusionperc.geometry import BevGrid
from fusionperc.models.agent_motion import AgentMotion, MotionOutput, placed
from fusionperc.models.bev import ConvNormAct
from fusionperc.models.detection import DetectionOutput
from fusionperc.models.ego_prior import (
    NUM_EGO_VALUES,
    NUM_STEPS,
    STEP_S,
    EgoPrior,
    ego_values,
    known_odometry,
    known_or,
)
from fusionperc.models.road import RoadMap
from fusionperc.types import COMMANDS, EgoInputs, Odometry

#: Limits of a plan: braking and accelerating (m/s^2), curvature (1/m) of the tightest turn of a car.
BRAKE_MPS2, ACCELERATE_MPS2, CURVATURE_PER_M = 7.0, 4.0, 0.2
#: Halvings from the fused grid to the scene's tokens.
_HALVINGS = 2
#: A curvature that is as much as an acceleration of 1 m/s^2.
_CURVATURE_UNIT_PER_M = 0.02
#: How long a vehicle's acceleration and curvature last, and below which speed its turn rate says nothing of these.
_GOES_ON_S, _LEAST_TURNING_MPS = 1.5, 1.0
#: Where the alternative plans start before anything is learnt: (acceleration, curvature), repeated.
_FIRST_CONTROLS = ((0.0, 0.0), (-0.6, 0.0), (0.3, 0.0), (0.0, 0.015), (0.0, -0.015), (-1.2, 0.0))


@dataclass(frozen=True)
class PlanningOutput:
    """What the head plans.

    Attributes:
        waypoints: (G * B, M, 8, 3) x, y, yaw at 0.5, 1.0, ... 4.0 s in the frame of the inputs, for each of the G
            variants of `EgoInputs`.
        acceleration_mps2: (G * B, M, 8) of each step.
        mode_logits: (G * B, M).
        controls, start_mps, heading_rad: (G * B, M, 2, 8), (G * B,), (G * B,) what `rolled_out` made the waypoints of.
        guessed_motion: (B, 3) `EGO_MOTION`, the ego's present motion, as the scene lets one guess; NaN: acceleration.
        sensed_motion: (B, 3) the same as it is measured, or else guessed, without gradient. Plans start with it where
            no ego status is told, evenly where no acceleration is.
        motion: of the agents.
        map_logits: (B, X, Y) that a cell can be driven on, as the sensors tell, whether a map is given or not.
        road: (B, X, Y) how surely it can, as the map tells where one is given, else as the sensors do.
    """

    waypoints: Tensor
    acceleration_mps2: Tensor
    mode_logits: Tensor
    controls: Tensor
    start_mps: Tensor
    heading_rad: Tensor
    guessed_motion: Tensor
    sensed_motion: Tensor
    motion: MotionOutput
    map_logits: Tensor
    road: Tensor

    def best_mode(self) -> Int[Tensor, " batch"]:
        """The plan of the least expected distance from what will be driven, if one of the plans will be."""
        place = self.waypoints[..., :2]
        apart_m = (place[:, :, None] - place[:, None]).norm(dim=-1).mean(-1)
        expected_m: Tensor = (apart_m @ self.mode_logits.softmax(1)[..., None]).squeeze(-1)
        return expected_m.argmin(1)

    def best(self) -> Float[Tensor, "batch steps 3"]:
        """Waypoints of `best_mode`."""
        return self.of_mode(self.waypoints, self.best_mode())

    @staticmethod
    def of_mode(values: Float[Tensor, "batch modes ..."], mode: Int[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
        """Of values of every alternative those of one, for each sample its own."""
        return values[torch.arange(len(values), device=values.device), mode]


class PlanningHead(nn.Module):
    """Fused map (B, C, X, Y), detections and what the ego is told to `PlanningOutput`.

    Args:
        config: its size.
        grid: of the fused map.
        in_channels: of the fused map.
        query_channels: of the detection queries.
    """

    def __init__(self, config: PlanningHeadConfig, grid: BevGrid, in_channels: int, query_channels: int) -> None:
        super().__init__()
        channels, self.shared_gradient = config.channels, config.shared_gradient
        self.is_map_given = config.map == "given"
        self.map = RoadMap(in_channels)
        self.scene = SceneTokens(grid, in_channels + 1, channels)
        self.ego_motion = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, 2))
        self.agents = AgentMotion(config, query_channels)
        self.ego = EgoQueries(config)
        self.prior = EgoPrior()
        self.layers = nn.ModuleList(EgoDecoderLayer(channels, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(channels)
        self.score = nn.Linear(channels, 1)
        self.controls = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, 2 * NUM_STEPS)
        )
        # What a vehicle does it goes on doing for a while.
        self.told_share = nn.Parameter(torch.exp(-torch.arange(NUM_STEPS) * STEP_S / _GOES_ON_S).repeat(2, 1))
        first = [_FIRST_CONTROLS[mode % len(_FIRST_CONTROLS)] for mode in range(config.modes)]
        self.first_controls = nn.Parameter(torch.tensor(first)[:, :, None].repeat(1, 1, NUM_STEPS))
        last: nn.Linear = self.controls[-1]  # type: ignore[assignment]
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)

    def forward(
        self,
        bev: Float[Tensor, "batch channels x y"],
        detection: DetectionOutput,
        ego: EgoInputs,
        odometry: Odometry | None = None,
    ) -> PlanningOutput:
        """Plans for every sample, or for G variants of each: `ego` then holds G * B, all samples of a variant together.

        Args:
            bev: fused map.
            detection: of the same samples.
            ego: what the ego is told.
            odometry: as `SensorInputs.odometry`.
        """
        bev = weakened_gradient(bev, self.shared_gradient)
        content = weakened_gradient(detection.query_content, self.shared_gradient)
        map_logits = self.map(bev)
        tokens, motion, is_absent = self.agents(replace(detection, query_content=content))
        area = map_logits.sigmoid()
        if self.is_map_given:
            drivable = ego.drivable[: bev.shape[0], None]
            area = torch.where(drivable.isfinite(), drivable.to(area.dtype), area)
        scene = self.scene(torch.cat([bev, area], 1))
        guessed_motion = _as_motion(self.ego_motion(scene.mean(1)).float())
        variants = ego.command.shape[0] // bev.shape[0]
        if odometry is None:
            odometry = Odometry.unknown(ego.past_m[: bev.shape[0]])
        # What the plan learns does not change what is sensed: that learns from the recorded motion alone.
        sensed_motion = known_or(odometry.motion, guessed_motion.detach())
        known = known_odometry(ego, sensed_motion.repeat(variants, 1), odometry.past_m.repeat(variants, 1, 1))
        queries = self.ego(ego, known)
        tokens, is_absent = tokens.repeat(variants, 1, 1), is_absent.repeat(variants, 1)
        scene = scene.repeat(variants, 1, 1)
        for layer in self.layers:
            queries = layer(queries, tokens, is_absent, scene)
        normed = self.norm(queries)
        start, going_on = present_motion(known.motion)
        raw = self.controls(normed).unflatten(-1, (2, NUM_STEPS)).float() * raw_scale(normed.device)
        raw = raw + self.first_controls + self.prior(ego, known)[:, None]
        raw = raw + going_on[:, None, :, None] * self.told_share
        heading = ego.heading_rad.float()
        waypoints, acceleration = rolled_out(raw, start, heading)
        return PlanningOutput(
            waypoints=waypoints,
            acceleration_mps2=acceleration,
            mode_logits=self.score(normed).squeeze(-1).float(),
            controls=raw,
            start_mps=start,
            heading_rad=heading,
            guessed_motion=guessed_motion,
            sensed_motion=sensed_motion,
            motion=motion,
            map_logits=map_logits.squeeze(1).float(),
            road=area.squeeze(1).float(),
        )


def weakened_gradient(values: Tensor, share: float) -> Tensor:
    """The same values; of the gradient only a share gets through."""
    return values.detach() if share == 0 else values.detach() + share * (values - values.detach())


def raw_scale(device: torch.device) -> Float[Tensor, "2 1"]:
    """Makes one step of learning change accelerations and curvatures by as many metres at the plan's end."""
    return torch.tensor([[1.0], [_CURVATURE_UNIT_PER_M]], device=device)


def _as_motion(raw: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch 3"]:
    """Speed, never backwards, and turn rate of raw numbers of about one."""
    speed, turn_rate = F.softplus(raw[:, 0] + 1.0) * 2.0, raw[:, 1] * 0.1
    return torch.stack([speed, torch.full_like(speed, torch.nan), turn_rate], -1)


def present_motion(motion: Float[Tensor, "batch 3"]) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch 2"]]:
    """The first speed, and what the vehicle goes on doing, acceleration and curvature: of `EGO_MOTION`."""
    speed, acceleration, turn_rate = motion.nan_to_num(0.0).unbind(-1)
    curvature = turn_rate / speed.clamp(min=_LEAST_TURNING_MPS)
    acceleration = acceleration.clamp(-BRAKE_MPS2, ACCELERATE_MPS2)
    going_on = torch.stack([acceleration, curvature.clamp(-CURVATURE_PER_M, CURVATURE_PER_M)], -1)
    return speed.clamp(min=0.0), going_on


def rolled_out(
    raw: Float[Tensor, "batch modes 2 steps"], speed_mps: Float[Tensor, " batch"], heading_rad: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch modes steps 3"], Float[Tensor, "batch modes steps"]]:
    """Waypoints of a vehicle that rolls without slip, from raw accelerations (m/s^2) and curvatures (1/m).

    Both are bounded smoothly. A vehicle that would go backwards stands; the gradient passes as if it did not, so that a
    standing plan can learn to start.

    Returns:
        x, y, yaw after each step of 0.5 s, and the accelerations.
    """
    acceleration = torch.where(
        raw[:, :, 0] < 0,
        BRAKE_MPS2 * torch.tanh(raw[:, :, 0] / BRAKE_MPS2),
        ACCELERATE_MPS2 * torch.tanh(raw[:, :, 0] / ACCELERATE_MPS2),
    )
    curvature = CURVATURE_PER_M * torch.tanh(raw[:, :, 1] / CURVATURE_PER_M)
    modes = raw.shape[1]
    speed = speed_mps[:, None].expand(-1, modes)
    yaw = heading_rad[:, None].expand(-1, modes)
    x = y = torch.zeros_like(yaw)
    points = []
    for step in range(raw.shape[-1]):
        free = speed + acceleration[..., step] * STEP_S
        after = free + (free.clamp(min=0.0) - free).detach()
        way = (speed + after) / 2 * STEP_S
        turn = curvature[..., step] * way
        x = x + way * torch.cos(yaw + turn / 2)
        y = y + way * torch.sin(yaw + turn / 2)
        yaw, speed = yaw + turn, after
        points.append(torch.stack([x, y, yaw], -1))
    return torch.stack(points, 2), acceleration


class SceneTokens(nn.Module):
    """The map in coarser cells as tokens with their place: (B, C, X, Y) to (B, X / 4 * Y / 4, channels)."""

    def __init__(self, grid: BevGrid, in_channels: int, channels: int) -> None:
        super().__init__()
        self.shrink = nn.Sequential(
            ConvNormAct(in_channels, channels, stride=2),
            *(ConvNormAct(channels, channels, stride=2) for _ in range(_HALVINGS - 1)),
        )
        self.place = nn.Linear(6, channels)
        centers = grid.centers_m()
        for _ in range(_HALVINGS):
            centers = centers[::2, ::2]
        self.centers_m: Tensor
        self.register_buffer("centers_m", centers.flatten(0, 1), persistent=False)

    def forward(self, bev: Float[Tensor, "batch channels x y"]) -> Float[Tensor, "batch cells out"]:
        tokens = self.shrink(bev).flatten(2).transpose(1, 2)
        return tokens + self.place(placed(self.centers_m))  # type: ignore[no-any-return]


class EgoQueries(nn.Module):
    """M queries from the command and what is known of the ego."""

    def __init__(self, config: PlanningHeadConfig) -> None:
        super().__init__()
        channels = config.channels
        self.mode_embedding = nn.Embedding(config.modes, channels)
        # The last one is for an unknown command.
        self.command_embedding = nn.Embedding(len(COMMANDS) + 1, channels)
        self.known = nn.Sequential(
            nn.Linear(NUM_EGO_VALUES, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.heading = nn.Linear(2, channels)

    def forward(self, ego: EgoInputs, known: Odometry) -> Float[Tensor, "batch modes channels"]:
        command = self.command_embedding(ego.command % (len(COMMANDS) + 1))
        heading = self.heading(torch.stack([ego.heading_rad.cos(), ego.heading_rad.sin()], -1))
        query: Tensor = self.known(ego_values(ego, known)) + command + heading
        return query[:, None] + self.mode_embedding.weight


class EgoDecoderLayer(nn.Module):
    """Attention among the alternatives, to the agents, to the scene, then feed-forward; each with a shortcut."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))
        self.modes, self.agents, self.scene = (
            nn.MultiheadAttention(channels, heads, batch_first=True) for _ in range(3)
        )
        # What a query attends to where no agent is.
        self.nobody_embedding = nn.Parameter(torch.zeros(1, 1, channels))
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.ReLU(inplace=True), nn.Linear(2 * channels, channels)
        )

    def forward(
        self,
        queries: Float[Tensor, "batch modes channels"],
        agents: Float[Tensor, "batch agents channels"],
        is_absent: Bool[Tensor, "batch agents"],
        scene: Float[Tensor, "batch cells channels"],
    ) -> Float[Tensor, "batch modes channels"]:
        normed = self.norms[0](queries)
        queries = queries + self.modes(normed, normed, normed, need_weights=False)[0]
        nobody = self.nobody_embedding.to(agents.dtype).expand(len(agents), 1, -1)
        agents = torch.cat([agents, nobody], 1)
        mask = F.pad(is_absent, (0, 1))
        queries = queries + self.agents(self.norms[1](queries), agents, agents, mask, need_weights=False)[0]
        queries = queries + self.scene(self.norms[2](queries), scene, scene, need_weights=False)[0]
        return queries + self.feed_forward(self.norms[3](queries))  # type: ignore[no-any-return]
