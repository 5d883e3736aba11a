"""What surrounds the storage engine: retention, small crash-safe state files."""
