"""Web pages that work alone: plain ES modules and CSS in static/, put into one file without a network; no torch."""
