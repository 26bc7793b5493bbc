"""The error of a shortage of memory, apart from all that needs torch: who only passes it on imports no more."""


class OutOfMemory(MemoryError):
    """Memory does not even suffice for one item at a time: a shortage of the device or the host, no item's fault."""
