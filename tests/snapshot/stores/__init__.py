"""Folders and real servers as stores."""
