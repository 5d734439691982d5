"""Cameras, LiDAR and radars, the rig they sit on and the weather they measure in."""
