"""Voxelization and BEV pooling: contract, torch reference and dispatch."""
