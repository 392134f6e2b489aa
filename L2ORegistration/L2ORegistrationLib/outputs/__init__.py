"""What follows a registration, one file an output: inverse, contours, dose, ventilation."""
