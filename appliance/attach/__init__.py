"""``hatchery-attach``: the kernel as a client of NBD: an export as /dev/nbdX, on any Linux host."""
