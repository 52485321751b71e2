"""What can be packed."""
