"""fastmq: the RocketMQ you can pip install."""

__version__ = "0.1.0.dev0"
