package wire;

import java.lang.reflect.Field;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A client's shutdown waits up to 3 s for its "NettyEventExecutor" thread, which polls a queue for 3 s at a time.
 * While clients are being shut down, those of these threads that have been told to end are woken. The others must not be:
 * with 5.x they also send heartbeats, and one that is interrupted closes the connection that all requests share.
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
            if (threads[i].getName().contains("NettyEventExecutor") && isToldToEnd(threads[i])) {
                threads[i].interrupt();
            }
        }
    }

    /** Whether the ServiceThread that runs there is stopped. False if that cannot be seen: then the shutdown takes its time. */
    private static boolean isToldToEnd(Thread thread) {
        try {
            Object service;
            try {
                service = value(thread, Thread.class, "target");
            } catch (NoSuchFieldException newer) { // Java 19 and later
                Object holder = value(thread, Thread.class, "holder");
                service = value(holder, holder.getClass(), "task");
            }
            for (Class<?> one = service.getClass(); one != null; one = one.getSuperclass()) {
                try {
                    return (Boolean) value(service, one, "stopped");
                } catch (NoSuchFieldException inherited) {
                    continue;
                }
            }
            return false;
        } catch (ReflectiveOperationException | RuntimeException unseen) {
            return false;
        }
    }

    private static Object value(Object of, Class<?> declaring, String name) throws ReflectiveOperationException {
        Field field = declaring.getDeclaredField(name);
        field.setAccessible(true);
        return field.get(of);
    }
}
