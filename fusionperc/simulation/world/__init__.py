"""The town as geometry: ground, houses, plants, objects, and rays through all of it."""
