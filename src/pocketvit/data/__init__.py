"""Files -> validated samples. Only `loader` imports torch."""
