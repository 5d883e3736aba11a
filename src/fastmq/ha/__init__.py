"""Replication between brokers; nothing of it is built yet."""
