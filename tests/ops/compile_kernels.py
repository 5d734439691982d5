"""Compiles every Triton kernel for the GPUs named, without one: python compile_kernels.py 80 90 120

Prints a line for each binary: kernel, architecture, its size in bytes. Must run without TRITON_INTERPRET.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fusionperc.ops import bev_pool_triton, segments_triton, voxelize_triton

POINTERS = {"key": "*i32", "counts": "*i64", "sample": "*i64", "xyz": "*fp32"}
INDICES = ("rows", "splits", "row_of_maximum", "point_index", "row_splits", "voxel", "voxels_until", "voxel_key")
FLOATS = ("low_x", "low_y", "low_z", "cell_m", "layer_m")
VALUES = ("table", "weights", "out", "values", "maximum", "padded", "grad", "features", "grad_features")


def signature(kernel: Any, values: str, key: str) -> dict[str, str]:
    """The type of each argument, by its name."""
    types = {}
    for name in kernel.arg_names:
        if name.isupper():
            types[name] = "constexpr"
        elif name in VALUES:
            types[name] = f"*{values}"
        elif name in ("depth", "grad_depth"):
            types[name] = "*fp32"
        elif name in INDICES or name in ("coordinates", "cell", "frustum"):
            types[name] = "*i64"
        elif name == "key":
            types[name] = f"*{key}"
        elif name == "outside":
            types[name] = key
        elif name in FLOATS:
            types[name] = "fp32"
        else:
            types[name] = POINTERS.get(name, "i32")
    return types


def variants() -> list[tuple[Any, dict[str, Any], str, str]]:
    """Kernel, constants, type of values, type of keys."""
    import triton.language as tl

    f32 = tl.float32
    tuned = [
        (segments_triton._segment_sum, {"HAS_ROWS": True, "HAS_WEIGHTS": True, "IS_MEAN": False, "ACCUMULATOR": f32}),
        (segments_triton._segment_sum, {"HAS_ROWS": False, "HAS_WEIGHTS": False, "IS_MEAN": True, "ACCUMULATOR": f32}),
        (segments_triton._segment_max, {"ACCUMULATOR": f32}),
        (voxelize_triton._pad, {"HAS_ORDER": True, "POINTS": 16, "CHANNELS": 8}),
        (bev_pool_triton._backward, {"CHANNELS": 128, "ACCUMULATOR": f32}),
    ]
    found: list[tuple[Any, dict[str, Any], str, str]] = []
    for kernel, constants in tuned:
        for number, config in enumerate(kernel.kernel.configs):
            # Every block size in float32, the first in half precision too.
            for values in ("fp32", "fp16", "bf16") if number == 0 else ("fp32",):
                found.append((kernel.kernel.fn, {**constants, **config.kwargs}, values, "i32"))
    for key in ("i32", "i64"):
        for kernel in (voxelize_triton.keys_kernel, voxelize_triton.count_kernel, voxelize_triton.rows_kernel):
            found.append((kernel, {"BLOCK": voxelize_triton.BLOCK}, "fp32", key))
    return found


def main() -> None:
    for architecture in map(int, sys.argv[1:]):
        for kernel, constants, values, key in variants():
            source = ASTSource(fn=kernel, signature=signature(kernel, values, key), constexprs=constants)
            compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
            if kernel is voxelize_triton.keys_kernel and "div.rn.f32" not in compiled.asm["ptx"]:
                raise AssertionError("the voxel of a point needs IEEE division")
            sys.stdout.write(f"{kernel.__name__} sm_{architecture} {len(compiled.asm['cubin'])}\n")


if __name__ == "__main__":
    main()
