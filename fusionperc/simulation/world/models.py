"""The table of parametric meshes of road users and roadside things, each in a unit box.

Each model is drawn in metres at a typical size and then scaled to [-0.5, 0.5]^3 (x forward, y left, z up), so that a
mesh fills whatever box an annotation has. It does not quite fill it: nuScenes' boxes stand off the surfaces by a few
centimetres, a car's by about six at either end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fusionperc.simulation.world.heavy_models import bendy_front, bendy_rear, bus, machine, tractor, trailer, truck
from fusionperc.simulation.world.people_models import (
    BUILDS,
    CHILD_BUILDS,
    STANDING,
    WORKER_BUILDS,
    Build,
    bicycle,
    motorcycle,
    scooter,
    walker,
)
from fusionperc.simulation.world.solids import Builder, Mesh
from fusionperc.simulation.world.vehicle_models import (
    CITY_CAR,
    COUPE,
    CROSSOVER,
    DELIVERY_VAN,
    ESTATE,
    HATCHBACK,
    MINIVAN,
    OFF_ROADER,
    PICKUP,
    SALOON,
    SMALL_VAN,
    SUV,
    CarShape,
    car,
)

#: Moments of a walker's stride and standing still: so many variants has one person.
PERSON_VARIANTS = STANDING + 1

#: The low and high corner of what becomes the unit box.
Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]
# A walker's box does not breathe with the stride, so its limbs must not either; arms and feet leave room at the sides.
_PERSON_BOX: Bounds = ((-0.42, -0.335, 0.0), (0.47, 0.335, 1.79))


@dataclass(frozen=True)
class Model:
    """One kind of thing, or of person.

    Attributes:
        build: makes variant 0 to `num_variants` - 1, in metres.
        num_variants: body styles, and for people and cycles what they do.
        slack_m: by how much the box stands off the mesh: at each end, at each side, above.
        box: fixed bounds in place of the mesh's own, for people.
    """

    build: Callable[[int], Builder]
    num_variants: int
    slack_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    box: Bounds | None = None


def _cars(*shapes: CarShape) -> Model:
    return Model(lambda variant: car(shapes[variant]), len(shapes), (0.06, 0.0, 0.03))


def _people(builds: tuple[Build, ...]) -> Model:
    return Model(
        lambda variant: walker(builds[variant // PERSON_VARIANTS], variant % PERSON_VARIANTS),
        len(builds) * PERSON_VARIANTS,
        box=_PERSON_BOX,
    )


def _cone(style: int) -> Builder:
    """A cone with one or two bands, or a slim tube."""
    b = Builder()
    b.block(-0.2, 0.2, 0.2, 0.0, 0.05, "plain" if style else "dark")
    if style == 2:
        b.tube((0, 0, 0.05), (0, 0, 1.0), (0.07, 0.055), "plain", 10)
        b.tube((0, 0, 0.55), (0, 0, 0.68), (0.072, 0.07), "band", 10)
        b.tube((0, 0, 0.78), (0, 0, 0.9), (0.067, 0.064), "band", 10)
        return b
    b.tube((0, 0, 0.05), (0, 0, 1.0), (0.16, 0.025), "plain", 12)
    b.tube((0, 0, 0.45), (0, 0, 0.65), (0.107, 0.078), "band", 12, is_closed=False)
    if style == 1:
        b.tube((0, 0, 0.74), (0, 0, 0.84), (0.067, 0.052), "band", 12, is_closed=False)
    return b


def _barrier(style: int) -> Builder:
    """Concrete profile, plastic block filled with water, or boards on feet: the thin side is x (length), the long side
    y (width), as nuScenes annotates barriers."""
    b = Builder()
    half = 1.25
    match style:
        case 0:
            b.hexahedron((-0.25, 0.25, -half, half, 0.0), (-0.25, 0.25, -half, half, 0.12), "plain")
            b.hexahedron((-0.25, 0.25, -half, half, 0.12), (-0.13, 0.13, -half, half, 0.38), "plain")
            b.hexahedron((-0.13, 0.13, -half, half, 0.38), (-0.08, 0.08, -half, half, 0.98), "plain")
            for y in (-0.8, 0.8):
                b.brick((-0.15, y - 0.12, 0.62), (0.15, y + 0.12, 0.78), "band")
        case 1:
            for y in (-0.93, -0.31, 0.31, 0.93):
                b.hexahedron((-0.25, 0.25, y - 0.31, y + 0.31, 0.08), (-0.2, 0.2, y - 0.3, y + 0.3, 0.4), "plain")
                b.hexahedron((-0.2, 0.2, y - 0.3, y + 0.3, 0.4), (-0.12, 0.12, y - 0.24, y + 0.24, 0.98), "plain")
            b.block(-0.22, 0.22, half, 0.0, 0.1, "plain")
        case _:
            for y in (-0.95, 0.95):
                b.brick((-0.25, y - 0.08, 0.0), (0.25, y + 0.08, 0.08), "dark")
                b.brick((-0.03, y - 0.03, 0.05), (0.03, y + 0.03, 0.98), "metal")
            for z in (0.3, 0.72):
                for k in range(5):
                    y = -half + 0.5 * k
                    b.brick((-0.05, y, z), (0.05, y + 0.5, z + 0.24), "plain" if k % 2 else "band")
    return b


#: By key. Variants of people are styles times `PERSON_VARIANTS` plus the moment of the stride; of cycles, twice the
#: style plus whether there is a rider.
MODELS: dict[str, Model] = {
    "car": _cars(SALOON, HATCHBACK, CROSSOVER, ESTATE, SALOON, CITY_CAR, COUPE, HATCHBACK, CROSSOVER),
    "suv": _cars(SUV, CROSSOVER, OFF_ROADER, SUV),
    "van": _cars(MINIVAN, DELIVERY_VAN, MINIVAN, SMALL_VAN),
    "pickup": _cars(PICKUP),
    "truck": Model(truck, 6, (0.05, 0.0, 0.04)),
    "tractor": Model(tractor, 2, (0.05, 0.0, 0.04)),
    "bus": Model(bus, 3, (0.06, 0.0, 0.04)),
    "bendy_front": Model(bendy_front, 1, (0.04, 0.0, 0.04)),
    "bendy_rear": Model(bendy_rear, 1, (0.04, 0.0, 0.04)),
    "trailer": Model(trailer, 5, (0.06, 0.03, 0.04)),
    "excavator": Model(machine, 4, (0.08, 0.05, 0.05)),
    "motorcycle": Model(lambda variant: motorcycle(variant // 2, has_rider=variant % 2 == 1), 4, (0.04, 0.02, 0.03)),
    "scooter": Model(lambda variant: scooter(variant // 2, has_rider=variant % 2 == 1), 4, (0.04, 0.02, 0.03)),
    "bicycle": Model(lambda variant: bicycle(variant // 2, has_rider=variant % 2 == 1), 6, (0.04, 0.02, 0.03)),
    "pedestrian": _people(BUILDS),
    "child": _people(CHILD_BUILDS),
    "worker": _people(WORKER_BUILDS),
    "cone": Model(_cone, 3, (0.01, 0.01, 0.0)),
    "barrier": Model(_barrier, 3, (0.04, 0.0, 0.02)),
}


def filled_size_m(model: str, size_lwh_m: tuple[float, float, float]) -> tuple[float, float, float]:
    """Length, width and height that the unit box of a mesh is scaled to in a box of `size_lwh_m`.

    All of it, but for people: annotated boxes are often much wider than who is in them, and nobody grows with that.
    """
    box = MODELS[model].box
    if box is None:
        return size_lwh_m
    length, width, height = (high - low for low, high in zip(*box, strict=True))
    scale = size_lwh_m[2] / height
    return min(size_lwh_m[0], length * scale), min(size_lwh_m[1], width * scale), size_lwh_m[2]


def unit_mesh(model: str, variant: int) -> Mesh:
    """The mesh of a model in the unit box.

    Args:
        model: key of `MODELS`.
        variant: any number, taken modulo the model's number of variants.

    Raises:
        ValueError: unknown model.
    """
    if model not in MODELS:
        raise ValueError(f"model '{model}' is unknown; choose one of {', '.join(MODELS)}")
    return _unit_mesh(model, variant % MODELS[model].num_variants)


@lru_cache(maxsize=256)
def _unit_mesh(name: str, variant: int) -> Mesh:
    model = MODELS[name]
    builder = model.build(variant)
    if model.box is not None:
        return builder.mesh((np.array(model.box[0]), np.array(model.box[1])))
    vertices = np.concatenate(builder.vertices)
    end, side, above = model.slack_m
    return builder.mesh((vertices.min(0) - [end, side, 0.0], vertices.max(0) + [end, side, above]))
