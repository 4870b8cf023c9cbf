"""The device side of the tasks: one record each."""
