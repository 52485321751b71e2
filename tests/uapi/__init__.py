"""Tests of the kernel ABI room: layouts, numbers, and both against real kernel headers."""
