"""The fusion transformer: windowed attention over the tokens of all sensors.

Every cell of the bird's-eye view has one token from each sensor that is present. Attention runs within windows of
w x w cells, over the tokens of all sensors at once, and windows move by half a window from layer to layer. What is
absent is masked, cell by cell and sample by sample.

Source: Liu et al., "Swin Transformer" (ICCV 2021) for shifted windows; UNITER (Chen et al., ECCV 2020) and VL-BERT (Su
et al., ICLR 2020) for one stream over modalities; ViLBERT (Lu et al., NeurIPS 2019) for two that co-attend. Deviations:
shifting pads and masks instead of rolling, so no cell ever sees the opposite border; positions are sines of the cell
plus an embedding learnt within the window, added to queries and keys.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionperc.config import FusionConfig
from fusionperc.models.bev import residual_blocks
from fusionperc.types import SENSORS, Sensor

#: The two streams of style 'co': what looks, and what measures range.
STREAMS: tuple[tuple[Sensor, ...], ...] = (("camera",), ("radar", "lidar"))


@dataclass(frozen=True)
class Windows:
    """How a map of X x Y cells is cut into windows of side `side`, the first one beginning `shift` cells outside."""

    size: tuple[int, int]
    side: int
    shift: int

    @property
    def counts(self) -> tuple[int, int]:
        """Number of windows along x and y."""
        return (
            math.ceil((self.size[0] + self.shift) / self.side),
            math.ceil((self.size[1] + self.shift) / self.side),
        )

    def _padding(self) -> tuple[int, int, int, int]:
        (count_x, count_y), (size_x, size_y) = self.counts, self.size
        return (
            self.shift, count_y * self.side - size_y - self.shift,
            self.shift, count_x * self.side - size_x - self.shift,
        )  # fmt: skip

    def cut(self, cells: Tensor) -> Tensor:
        """(B, X, Y, S, C) to (B * windows, side * side * S, C), padded with zeros."""
        batch, _, _, sensors, channels = cells.shape
        padding = self._padding()
        if any(padding):
            cells = F.pad(cells, (0, 0, 0, 0, *padding))
        count_x, count_y = self.counts
        cells = cells.view(batch, count_x, self.side, count_y, self.side, sensors, channels).transpose(2, 3)
        return cells.reshape(batch * count_x * count_y, self.side * self.side * sensors, channels)

    def join(self, windows: Tensor, sensors: int) -> Tensor:
        """The inverse of `cut`."""
        count_x, count_y = self.counts
        channels = windows.shape[-1]
        cells = windows.view(-1, count_x, count_y, self.side, self.side, sensors, channels).transpose(2, 3)
        cells = cells.reshape(-1, count_x * self.side, count_y * self.side, sensors, channels)
        return cells[:, self.shift : self.shift + self.size[0], self.shift : self.shift + self.size[1]]

    def key_mask(self, present: Bool[Tensor, "batch sensors"]) -> Tensor | None:
        """(B * windows, 1, 1, tokens), 0 for tokens that may be attended to and -inf for the others; None if all may.

        Where nothing may be (a sample without any of these sensors) all are, so that no softmax is empty; nobody reads
        the result.
        """
        if not any(self._padding()) and bool(present.all()):
            return None
        cells = present[:, None, None, :, None].expand(-1, *self.size, -1, 1)
        may = self.cut(cells.float())[..., 0] > 0
        may |= ~may.any(1, keepdim=True)
        # Added to the logits: PyTorch would turn a bool mask into the same, for all pairs of tokens.
        return torch.zeros_like(may, dtype=torch.float32).masked_fill(~may, -torch.inf)[:, None, None]


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of one window."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(
        self,
        tokens: Float[Tensor, "windows tokens channels"],
        position: Float[Tensor, "tokens channels"],
        mask: Float[Tensor, "windows 1 1 tokens"] | None,
    ) -> Float[Tensor, "windows tokens channels"]:
        # The projection is linear: that of the few positions is added to that of the many tokens, to queries and keys.
        weight = self.query_key_value.weight[: 2 * tokens.shape[-1]]
        offset = F.pad(F.linear(position, weight), (0, tokens.shape[-1]))
        query, key, value = (self.query_key_value(tokens) + offset).chunk(3, dim=-1)
        return self.out(_attend(query, key, value, mask, self.heads))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention from one stream's tokens to another's in the same window."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(
        self,
        tokens: Float[Tensor, "windows tokens channels"],
        position: Float[Tensor, "tokens channels"],
        context: Float[Tensor, "windows keys channels"],
        context_position: Float[Tensor, "keys channels"],
        mask: Float[Tensor, "windows 1 1 keys"] | None,
    ) -> Float[Tensor, "windows tokens channels"]:
        channels = tokens.shape[-1]
        query = self.query(tokens) + F.linear(position, self.query.weight)
        offset = F.pad(F.linear(context_position, self.key_value.weight[:channels]), (0, channels))
        key, value = (self.key_value(context) + offset).chunk(2, dim=-1)
        return self.out(_attend(query, key, value, mask, self.heads))  # type: ignore[no-any-return]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Scaled dot-product attention of (windows, tokens, channels), split into heads and joined again."""

    def split(tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)

    dtype = query.dtype
    # Measured on the CPU, torch 2.15, heads of 16 channels, 192 tokens, forward and backward: bfloat16 takes 2.3 times
    # as long as float32. So float32 there, also under autocast.
    is_cpu = query.device.type == "cpu"
    with torch.autocast("cpu", enabled=False) if is_cpu else nullcontext():
        if is_cpu:
            query, key, value = query.float(), key.float(), value.float()
        query, key, value = (split(tokens) for tokens in (query, key, value))
        if mask is not None:
            mask = mask.to(query.dtype).expand(-1, 1, query.shape[2], -1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2).to(dtype)


class FeedForward(nn.Sequential):
    def __init__(self, channels: int, ratio: float) -> None:
        hidden = round(channels * ratio)
        super().__init__(
            nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )


@dataclass(frozen=True)
class Stream:
    """Tokens of some sensors: cells (B, X, Y, S, C), and which samples have them, present (B, S) bool."""

    sensors: tuple[Sensor, ...]
    cells: Tensor
    present: Tensor


class _WindowPositions(nn.Module):
    """One learnt vector per cell of a window, the same for every sensor."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(side * side, channels) * 0.02)

    def forward(self, sensors: int) -> Float[Tensor, "tokens channels"]:
        return self.embedding.repeat_interleave(sensors, dim=0)


class JointLayer(nn.Module):
    """One stream: every token attends to the tokens of all sensors in its window."""

    def __init__(self, config: FusionConfig, shift: int) -> None:
        super().__init__()
        self.side, self.shift = config.window, shift
        self.positions = _WindowPositions(config.channels, config.window)
        self.norm = nn.LayerNorm(config.channels)
        self.attention = SelfAttention(config.channels, config.heads)
        self.feed_forward = FeedForward(config.channels, config.mlp_ratio)

    def forward(self, streams: list[Stream]) -> list[Stream]:
        (stream,) = streams
        count = len(stream.sensors)
        windows = Windows((stream.cells.shape[1], stream.cells.shape[2]), self.side, self.shift)
        tokens = windows.cut(stream.cells)
        position, mask, normed = self.positions(count), windows.key_mask(stream.present), self.norm(tokens)
        tokens = tokens + self.attention(normed, position, mask)
        tokens = tokens + self.feed_forward(tokens)
        return [Stream(stream.sensors, windows.join(tokens, count), stream.present)]


class CoLayer(nn.Module):
    """Two streams: each first attends to the other, then to itself (ViLBERT's co-attention, then its own block)."""

    def __init__(self, config: FusionConfig, shift: int) -> None:
        super().__init__()
        self.side, self.shift = config.window, shift
        count, channels = len(STREAMS), config.channels
        self.positions = _WindowPositions(channels, config.window)
        self.cross_norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(count))
        self.cross = nn.ModuleList(CrossAttention(channels, config.heads) for _ in range(count))
        self.self_norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(count))
        self.self_attention = nn.ModuleList(SelfAttention(channels, config.heads) for _ in range(count))
        self.feed_forwards = nn.ModuleList(FeedForward(channels, config.mlp_ratio) for _ in range(count))

    def forward(self, streams: list[Stream]) -> list[Stream]:
        size = (streams[0].cells.shape[1], streams[0].cells.shape[2])
        windows = Windows(size, self.side, self.shift)
        # A stream's number is that of its weights, also when the other one is absent.
        numbers = [next(n for n, s in enumerate(STREAMS) if stream.sensors[0] in s) for stream in streams]
        tokens = [windows.cut(stream.cells) for stream in streams]
        masks = [windows.key_mask(stream.present) for stream in streams]
        positions = [self.positions(len(stream.sensors)) for stream in streams]
        if len(streams) == 2:
            normed = [self.cross_norms[n](t) for n, t in zip(numbers, tokens, strict=True)]
            has_other = [streams[1].present.any(1), streams[0].present.any(1)]
            tokens = [
                tokens[i]
                + _per_sample(has_other[i], tokens[i])
                * self.cross[numbers[i]](normed[i], positions[i], normed[1 - i], positions[1 - i], masks[1 - i])
                for i in range(2)
            ]
        result = []
        for number, stream, own, position, mask in zip(numbers, streams, tokens, positions, masks, strict=True):
            itself = self.self_norms[number](own)
            own = own + self.self_attention[number](itself, position, mask)
            own = own + self.feed_forwards[number](own)
            result.append(Stream(stream.sensors, windows.join(own, len(stream.sensors)), stream.present))
        return result


def _per_sample(flag: Bool[Tensor, " batch"], windows: Tensor) -> Tensor:
    """0 or 1 for each window of the samples, to be multiplied with its tokens."""
    return flag.repeat_interleave(windows.shape[0] // flag.shape[0])[:, None, None].to(windows.dtype)


class FusionTransformer(nn.Module):
    """Maps of the present sensors to one fused map.

    Style 'joint' is one stream of all tokens. Style 'co' has two, for ViLBERT's picture and text: the *camera* stream
    (rich in appearance, poor in range) and the *range* stream of radar and LiDAR tokens together (they measure range).

    The fused cell is the mean of its present tokens, normalised and projected, then `bev_blocks` residual blocks.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.style, channels = config.style, config.channels
        self.input_norms = nn.ModuleDict({sensor: nn.LayerNorm(channels) for sensor in SENSORS})
        self.sensor_embedding = nn.ParameterDict(
            {sensor: nn.Parameter(torch.randn(channels) * 0.02) for sensor in SENSORS}
        )
        shifts = [0 if number % 2 == 0 else config.window // 2 for number in range(config.layers)]
        match config.style:
            case "joint":
                self.layers = nn.ModuleList(JointLayer(config, shift) for shift in shifts)
            case "co":
                self.layers = nn.ModuleList(CoLayer(config, shift) for shift in shifts)
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, channels)
        self.bev_blocks = residual_blocks(channels, config.bev_blocks)

    def forward(self, bevs: dict[Sensor, Tensor], present: dict[Sensor, Tensor]) -> Float[Tensor, "batch channels x y"]:
        """Fuses maps.

        Args:
            bevs: (B, C, X, Y) of each sensor that is present in the batch, at least one.
            present: (B,) bool of the same sensors: which samples have it. What an absent sample's map holds
                changes nothing, but it must be finite.

        Raises:
            ValueError: no sensor is given.
        """
        if not bevs:
            raise ValueError("no sensor: the fusion transformer needs the map of at least one")
        sensors = tuple(sensor for sensor in SENSORS if sensor in bevs)
        streams = [
            self._stream(members, bevs, present)
            for group in (STREAMS if self.style == "co" else (SENSORS,))
            if (members := tuple(sensor for sensor in group if sensor in sensors))
        ]
        for layer in self.layers:
            streams = layer(streams)
        cells = torch.cat([stream.cells for stream in streams], dim=3)
        weight = torch.cat([stream.present for stream in streams], dim=1).to(cells.dtype)[:, None, None, :, None]
        mean = torch.where(weight > 0, cells, 0).sum(3) / weight.sum(3).clamp_min(1)
        fused = self.project(self.norm(mean)).permute(0, 3, 1, 2)
        return self.bev_blocks(fused)  # type: ignore[no-any-return]

    def _stream(self, members: tuple[Sensor, ...], bevs: dict[Sensor, Tensor], present: dict[Sensor, Tensor]) -> Stream:
        first = bevs[members[0]]
        where = _sine_positions(first.shape[2], first.shape[3], first.shape[1], first.device)
        tokens = [
            self.input_norms[sensor](bevs[sensor].permute(0, 2, 3, 1)) + self.sensor_embedding[sensor] + where
            for sensor in members
        ]
        return Stream(members, torch.stack(tokens, dim=3), torch.stack([present[sensor] for sensor in members], dim=1))


def _sine_positions(size_x: int, size_y: int, channels: int, device: torch.device) -> Float[Tensor, "x y channels"]:
    """Sines and cosines of the cell's place, 1 to ~size/2 periods over the map; half the channels for each axis."""

    def axis(size: int, width: int) -> Tensor:
        place = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
        octaves = torch.logspace(0, math.log2(max(size / 4, 2)), (width + 1) // 2, base=2.0, device=device)
        angle = place[:, None] * octaves * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]

    half = channels // 2
    x = axis(size_x, half)[:, None].expand(-1, size_y, -1)
    y = axis(size_y, channels - half)[None].expand(size_x, -1, -1)
    return torch.cat([x, y], dim=2)
