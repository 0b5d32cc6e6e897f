"""Images: where they lie, how they are decoded, split, checked, transformed and batched. Knows no model."""
