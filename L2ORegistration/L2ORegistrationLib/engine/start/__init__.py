"""Where the optimiser starts: affine candidates, a search, and the choice between them."""
