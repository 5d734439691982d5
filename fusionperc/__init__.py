"""Camera, radar and LiDAR fused in one bird's-eye view: detection on nuScenes and on simulated drives."""
