"""Masks as files: label maps (png), run lengths (rle), COCO's JSON (coco), polygons (yolo)."""
