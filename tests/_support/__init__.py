"""What several test files use: references, models, the command line in process."""
