"""The network: constant-Q front end, encoder, spectral pooling, complex head, similarity."""
