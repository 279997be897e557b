"""The network: constant-Q front end, encoder, spectral pooling, complex head, similarity."""

from phalar.model.phalar import VARIANTS, ModelConfig, Phalar, build_model
from phalar.model.weights import load_model, save_model

__all__ = ["VARIANTS", "ModelConfig", "Phalar", "build_model", "load_model", "save_model"]
