"""CRIU's page server: as a sink, as a server, as a source."""
