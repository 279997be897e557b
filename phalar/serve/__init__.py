"""A small HTTP API and a page, on this machine alone: drop a mix, hear what fits."""
