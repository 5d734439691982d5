"""A flat, empty world to put single objects into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import MultiPolygon, box

from fusionperc.simulation.traffic.drive import Actor
from fusionperc.simulation.traffic.network import Network
from fusionperc.simulation.world.terrain import FLAT
from fusionperc.simulation.world.town import ASPHALT, Town
from fusionperc.simulation.world.world import World


@pytest.fixture(scope="session")
def open_field() -> Town:
    """300 m x 300 m of asphalt."""
    return Town(
        seed=0,
        bounds_m=(0.0, 0.0, 300.0, 300.0),
        surface=np.full((300, 300), ASPHALT, dtype=np.uint8),
        surface_resolution_m=1.0,
        kerb=np.zeros((300, 300), dtype=np.float32),
        kerb_resolution_m=1.0,
        terrain=FLAT,
        road=MultiPolygon([box(0, 0, 300, 300)]),
        sidewalk=MultiPolygon(),
        edges=(),
        network=Network(
            file=Path(),
            size_m=(300.0, 300.0),
            edges={},
            links={},
            junctions=(),
            walking_areas=(),
            crossings=(),
            signalled=(),
            islands=(),
            ring_edges=(),
        ),
        buildings=(),
        trees=(),
        poles=(),
    )


@pytest.fixture
def field_world(open_field: Town) -> World:
    return World(open_field)


@pytest.fixture
def make_car() -> Callable[..., Actor]:
    """Makes a car of 4.6 x 1.9 x 1.6 m standing on the ground."""

    def make(
        x_m: float, y_m: float, yaw_rad: float = 0.0, velocity_mps: tuple[float, float] = (0.0, 0.0), instance: int = 7
    ) -> Actor:
        return Actor(
            instance=instance,
            category="vehicle.car",
            model="car",
            center_m=(x_m, y_m, 0.8),
            yaw_rad=yaw_rad,
            size_lwh_m=(4.6, 1.9, 1.6),
            velocity_mps=velocity_mps,
            attribute="vehicle.moving",
            colour=(0.6, 0.1, 0.1),
            phase_rad=0.0,
        )

    return make
