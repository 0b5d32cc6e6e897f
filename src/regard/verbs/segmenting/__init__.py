"""What `segment` is made of."""
