"""Head, loss, metrics and answer of each task."""
