"""NumPy-only contracts of the torch side and the small devices: images, preprocessing, tasks, manifest, budgets."""
