"""Artifact -> answers for people: files, folders, pictures."""
