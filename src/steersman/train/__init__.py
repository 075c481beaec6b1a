"""Training methods, one file each, over the functions of `loop`."""
