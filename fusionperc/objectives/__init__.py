"""Losses and target assignment."""
