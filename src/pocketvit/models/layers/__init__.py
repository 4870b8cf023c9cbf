"""Layers whose insides we change: patch embedding, positions, the attention table, blocks."""
