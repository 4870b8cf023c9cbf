"""NumPy-only contracts shared by the torch side and the small devices: images, preprocessing, results, manifest, budgets."""
