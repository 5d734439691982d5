"""nuScenes' files: tables, labels, maps, CAN bus messages, checksums."""
