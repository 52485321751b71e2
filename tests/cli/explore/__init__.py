"""`userfault explore`."""
