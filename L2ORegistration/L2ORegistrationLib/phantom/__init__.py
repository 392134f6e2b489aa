"""Breathing lungs made by computer, with their exact motion."""

from .pair import PhantomPair, make_pair

__all__ = ["PhantomPair", "make_pair"]
