"""What is fast, measured in one process: operations beside their peers, and a training step in parts."""
