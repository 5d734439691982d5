"""Simulated drives, written as nuScenes folders."""
