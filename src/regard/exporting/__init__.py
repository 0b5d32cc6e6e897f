"""Models as files that run without `regard`, each compared with the model that it came from."""
