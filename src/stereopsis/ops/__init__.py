"""Operators of the models, one module each: a plain torch reference first, fast kernels beside it."""
