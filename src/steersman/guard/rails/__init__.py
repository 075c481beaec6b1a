"""The guard's rails, one kind of check in each file."""
