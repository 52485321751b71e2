"""What tests of several rooms share: pages that describe themselves, skips, leaks, children."""
