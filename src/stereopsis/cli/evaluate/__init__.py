"""``stereopsis evaluate``: a model against ground truth, one module a family."""
