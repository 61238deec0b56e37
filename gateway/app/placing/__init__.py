"""From boards that are done to points in service: many nodes at once, and twice is once."""
