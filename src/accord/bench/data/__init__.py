"""Data sets: read, checked, converted and cached."""
