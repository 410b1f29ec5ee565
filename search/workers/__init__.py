"""All that touches Ray."""
