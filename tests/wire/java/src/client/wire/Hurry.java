package wire;

import java.util.concurrent.atomic.AtomicInteger;

/**
 * A client's shutdown waits up to 3 s for its "NettyEventExecutor" thread, which polls a queue for 3 s at a time.
 * While clients are being shut down those threads are woken; one that goes on only polls again.
 */
final class Hurry {
    private static final AtomicInteger CLOSING = new AtomicInteger();

    private Hurry() {
    }

    static void begin() {
        CLOSING.incrementAndGet();
    }

    static void end() {
        CLOSING.decrementAndGet();
    }

    /** Starts the thread that does it. */
    static void start() {
        Thread waker = new Thread(() -> {
            while (true) {
                try {
                    Thread.sleep(50);
                } catch (InterruptedException stop) {
                    return;
                }
                if (CLOSING.get() > 0) {
                    wake();
                }
            }
        }, "hurry");
        waker.setDaemon(true);
        waker.start();
    }

    private static void wake() {
        Thread[] threads = new Thread[Thread.activeCount() + 100];
        int count = Thread.enumerate(threads);
        for (int i = 0; i < count; i++) {
            if (threads[i].getName().contains("NettyEventExecutor")) {
                threads[i].interrupt();
            }
        }
    }
}
