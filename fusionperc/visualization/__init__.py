"""Pictures and viewers."""
