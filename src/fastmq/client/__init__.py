"""Python clients of RocketMQ-compatible servers."""
