"""The pager: `core` decides who fills which page when, `drivers` do it."""
