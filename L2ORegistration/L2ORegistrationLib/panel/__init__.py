"""The parts of the module's panel that concern one registration; the only Qt in this package."""
