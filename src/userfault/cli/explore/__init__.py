"""`userfault explore`: every interleaving of small scenarios on the model kernel."""
