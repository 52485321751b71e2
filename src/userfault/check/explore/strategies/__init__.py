"""Who runs next: come here to add a way through the schedules, or to ask what one leaves out."""
