"""Signed updates: how they are described, fetched, kept and proven, and who falls back when they fail."""
