"""Write unlabelled drives as shards, to stream them: python tools/shard.py OUT CONFIG data.root=DIR [key=value ...]

The drives are those that tools/pretrain.py would read with the same configuration, annotated or not; several folders:
  pretraining.drives="[{root: data/unlabelled, version: v1.0-test}, {root: data/sim, split: sim_train}]"
A sample can be read from shards as far back and ahead as the configuration reads it (data.lidar_sweeps,
data.lidar_sweep_stride, data.radar_sweeps, pretraining.horizon_s); all else may differ later, as the files are stored
as they are: picture size, augmentation, rays, model. Pretraining then streams them:
  python tools/pretrain.py CONFIG pretraining.shards=OUT data.root=DIR run.dir=RUN
or, after copying OUT to an object store, pretraining.shards=s3://BUCKET/SET (gs:// and r2:// likewise), of which only
the bytes of the samples at hand are fetched; data.root is still where the held-out drives are.

Every sensor file that a sample may need is stored once, without annotations: 64 key frames took 1.01 of the bytes of
the sensor files in them.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from rich.progress import track

from fusionperc.config import load_config
from fusionperc.console import console, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to be made")
    parser.add_argument("config", help="YAML file, e.g. configs/pretraining.yaml")
    parser.add_argument("--shard-mb", type=float, default=64, help="size at which a shard is closed")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.lidar_sweeps=10")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, arguments.overrides)

    from fusionperc.data.shard_writing import write_shards

    written = write_shards(
        arguments.out,
        config,
        shard_bytes=round(arguments.shard_mb * 2**20),
        track=partial(track, description="drives", console=console),
    )
    console.print(
        f"{arguments.out}: {written.num_samples} samples in {written.num_shards} shards, "
        f"{written.shard_bytes / 1e6:.1f} MB, {written.shard_bytes / written.raw_bytes:.3f} of the sensor files in them"
    )


if __name__ == "__main__":
    run_tool(main)
