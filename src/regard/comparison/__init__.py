"""Several models on one split, each trained with the same budget, and the one test that was stated in advance."""
