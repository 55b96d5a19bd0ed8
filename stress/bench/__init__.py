"""`python -m stress bench`: our figures, and those of our peers, of one run on one machine."""
