"""The out-of-memory error, in a module without torch for code that only catches or forwards it."""


class OutOfMemory(MemoryError):
    """Device or host memory is too small for even one item; the item itself is not at fault."""
