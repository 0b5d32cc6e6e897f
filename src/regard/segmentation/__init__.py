"""Segmenting with SAM: prompts to masks, everything mode, following, names, formats."""
