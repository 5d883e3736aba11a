"""Replication between brokers (RocketMQ's HAService); nothing of it is built yet."""
