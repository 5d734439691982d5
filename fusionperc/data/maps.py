"""Where one may drive: the drivable area of nuScenes' map expansion, around the ego.

Only the drivable area is read: planning is scored on it, and learns it. Drives without a map expansion have none, and
whoever asks is told so (None), never an empty area.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from shapely.affinity import affine_transform
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry
from shapely.strtree import STRtree

from fusionperc.data.errors import DataError
from fusionperc.geometry import BevGrid

#: Sides of an area cut out of the map lie this far from the ego: beyond any plan.
MAP_REACH_M = 100.0


class DrivableArea:
    """The drivable area of one town, in the frame of its drives' ego poses.

    Args:
        file: `maps/expansion/<location>.json` of nuScenes' map expansion.

    Raises:
        DataError: the file is no map expansion.
    """

    def __init__(self, file: Path) -> None:
        try:
            tables = json.loads(file.read_bytes())
            nodes = {node["token"]: (node["x"], node["y"]) for node in tables["node"]}
            rings = {row["token"]: row for row in tables["polygon"]}
            wanted = [token for area in tables["drivable_area"] for token in area["polygon_tokens"]]
            self._parts = np.array([_polygon(rings[token], nodes) for token in wanted], dtype=object)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{file}: no map expansion ({reason}): copy it again, or remove it") from None
        self._tree = STRtree(self._parts)

    def around(self, global_T_ego: NDArray[np.float64]) -> BaseGeometry:
        """The part within a square of `MAP_REACH_M` around the ego, in its ego frame (seen from above).

        Args:
            global_T_ego: (4, 4) pose; its tilt, under a few degrees on roads, is left out.
        """
        x, y = global_T_ego[:2, 3]
        # The square is cut before it is turned: its half diagonal must reach its half side in any direction.
        reach = MAP_REACH_M * np.sqrt(2)
        box = (x - reach, y - reach, x + reach, y + reach)
        parts = self._parts[self._tree.query(shapely.box(*box))]
        local = shapely.union_all([shapely.clip_by_rect(part, *box) for part in parts])
        yaw = np.arctan2(global_T_ego[1, 0], global_T_ego[0, 0])
        cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
        turned = affine_transform(local, [cos, sin, -sin, cos, -cos * x - sin * y, sin * x - cos * y])
        return shapely.clip_by_rect(turned, -MAP_REACH_M, -MAP_REACH_M, MAP_REACH_M, MAP_REACH_M)


class Towns:
    """The drivable areas of a nuScenes folder's towns, each read when first asked for.

    Args:
        root: folder that may hold `maps/expansion`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._areas: dict[str, DrivableArea | None] = {}

    def drivable_area(self, location: str) -> DrivableArea | None:
        """Of a town by its name in the log table; None where it has no map expansion. Raises `DataError`."""
        if location not in self._areas:
            file = self.root / "maps" / "expansion" / f"{location}.json"
            self._areas[location] = DrivableArea(file) if location and file.is_file() else None
        return self._areas[location]


def _polygon(row: dict[str, Any], nodes: dict[str, tuple[float, float]]) -> BaseGeometry:
    """A polygon with its holes, made valid: some of nuScenes' touch themselves."""

    def ring(tokens: list[str]) -> list[tuple[float, float]]:
        return [nodes[token] for token in tokens]

    holes = [ring(hole["node_tokens"]) for hole in row["holes"] if len(hole["node_tokens"]) >= 3]
    polygon = Polygon(ring(row["exterior_node_tokens"]), holes)
    return polygon if polygon.is_valid else polygon.buffer(0)


def moved(area: BaseGeometry, dst_T_ego: NDArray[np.float64]) -> BaseGeometry:
    """An area of the ego frame in another upright frame: turned about z, possibly mirrored, scaled and shifted."""
    (a, b), (d, e) = dst_T_ego[:2, :2]
    return affine_transform(area, [a, b, d, e, dst_T_ego[0, 3], dst_T_ego[1, 3]])


def distance_to_area(area: BaseGeometry, grid: BevGrid) -> NDArray[np.float32]:
    """(X, Y) how far each cell's centre lies off the area, metres; 0 on it. Exact to half a cell."""
    centers = grid.centers_m().double().numpy()
    region = shapely.clip_by_rect(area, grid.x_min_m, grid.y_min_m, grid.x_max_m, grid.y_max_m)
    shapely.prepare(region)
    inside = shapely.contains_xy(region, centers[..., 0], centers[..., 1])
    if not inside.any():
        return np.full(inside.shape, np.float32(np.hypot(*grid.shape) * grid.cell_m))
    distance: NDArray[np.float32] = (distance_transform_edt(~inside) * grid.cell_m).astype(np.float32)
    return distance
