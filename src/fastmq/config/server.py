"""What broker and name server have in common: where they listen and whom they obey (RocketMQ's NettyServerConfig)."""

from __future__ import annotations

from dataclasses import dataclass

from fastmq import limits
from fastmq.config.setting import Config, kept, setting


@dataclass(frozen=True, kw_only=True, repr=False)
class ServerSettings(Config):
    """Listening; the threads and buffers of Netty."""

    # who is served
    bind_address: str = setting(
        "bindAddress", "127.0.0.1", "address to listen on; 0.0.0.0 for all (RocketMQ's default)"
    )
    admin_from_loopback_only: bool = setting(
        "adminFromLoopbackOnly", True, "take dangerous admin commands from this machine only", own=True
    )

    # kept: read, checked and shown, without effect
    rocketmq_home: str = kept("rocketmqHome", "")
    server_channel_max_idle_time_seconds: int = kept("serverChannelMaxIdleTimeSeconds", limits.IDLE_SECONDS)
    server_worker_threads: int = kept("serverWorkerThreads", 8)
    server_callback_executor_threads: int = kept("serverCallbackExecutorThreads", 0)
    server_selector_threads: int = kept("serverSelectorThreads", 3)
    server_oneway_semaphore_value: int = kept("serverOnewaySemaphoreValue", 256)
    server_async_semaphore_value: int = kept("serverAsyncSemaphoreValue", 64)
    use_epoll_native_selector: bool = kept("useEpollNativeSelector", False)
    server_socket_backlog: int = kept("serverSocketBacklog", 1024)
    server_socket_rcv_buf_size: int = kept("serverSocketRcvBufSize", 0)
    server_socket_snd_buf_size: int = kept("serverSocketSndBufSize", 0)
    server_pooled_byte_buf_allocator_enable: bool = kept("serverPooledByteBufAllocatorEnable", True)
    server_netty_worker_group_enable: bool = kept("serverNettyWorkerGroupEnable", True)
    write_buffer_high_water_mark: int = kept("writeBufferHighWaterMark", 0)
    write_buffer_low_water_mark: int = kept("writeBufferLowWaterMark", 0)
    enable_shutdown_gracefully: bool = kept("enableShutdownGracefully", False)
    shutdown_wait_time_seconds: int = kept("shutdownWaitTimeSeconds", 30)
