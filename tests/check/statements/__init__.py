"""The statements on every kernel that is here."""
