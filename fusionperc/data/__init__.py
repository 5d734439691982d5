"""Reading nuScenes folders, augmentation and loading."""
