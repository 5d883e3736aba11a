"""The vocabulary of RocketMQ's remoting protocol, without any I/O."""
