"""Streets, who drives and walks in them, and the drives recorded or steered there."""
