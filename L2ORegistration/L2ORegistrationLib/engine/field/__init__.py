"""Displacement fields on the levels of the pyramid, and what the images say about them."""
