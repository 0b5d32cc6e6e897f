"""The verbs: one file each, composing the parts below; this is the public API."""
