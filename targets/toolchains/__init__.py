"""Vendor compilers behind one small interface (`targets.interface.Toolchain`), one file each.

Toolchains never import each other, and import their vendor's packages inside functions.
"""
