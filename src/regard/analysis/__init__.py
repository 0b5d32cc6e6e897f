"""What a model does inside, measured: one measurement, one file; each gives a figure of `reporting.pictures`."""
