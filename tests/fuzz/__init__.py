"""Seeded mutations of files, and what must hold whatever they do."""
