"""What a user sees while a search runs and when it ends."""
