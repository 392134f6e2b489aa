"""What all else stands on: geometry, files, landmarks, errors; numpy and SimpleITK, no torch."""
