"""`fastmq bench`: a load tool for any server that speaks RocketMQ's remoting protocol."""
