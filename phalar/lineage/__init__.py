"""Lineage: from a model to every source file, and from a source file to every model."""
