"""Model files: read and inspect, without torch."""
