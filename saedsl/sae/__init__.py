"""Sparse dictionaries: what they are (`config`, `header`), compute (`dictionary`) and look like on disk.

Import from the modules: `saedsl.sae.header` is light, `saedsl.sae.dictionary` imports MLX.
"""
