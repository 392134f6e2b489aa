"""Breathing lungs made by computer, with their exact motion."""
