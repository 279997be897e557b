"""Stem retrieval: given a part of a song, find the stem that fits it in time and harmony."""
