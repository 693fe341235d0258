"""What runs on a device: load a variant, measure it, check it.

The half that is pushed to rigs (`manifest`, `bench`, `identity`, `sessions` and what they import)
needs the standard library, numpy and the one runtime that a session loads. It runs on Python 3.10.
"""
