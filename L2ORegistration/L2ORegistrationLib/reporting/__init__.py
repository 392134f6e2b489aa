"""Pictures and pages of what follows a registration, with matplotlib."""
