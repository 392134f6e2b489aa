"""From scans to what the optimisers compare: lungs, the working grid, features."""
