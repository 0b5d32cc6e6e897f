"""What `explain` is made of: which photos and classes, one side per model, the job that writes, boxes, scores."""
