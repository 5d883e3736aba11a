package wire;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.message.MessageExt;

/** What one or several consumers got, in the order they got it. */
final class Inbox {
    final List<MessageExt> messages = new CopyOnWriteArrayList<>();
    final List<Long> times = new CopyOnWriteArrayList<>();

    synchronized void add(MessageExt message) {
        times.add(System.currentTimeMillis());
        messages.add(message);
    }

    MessageListenerConcurrently concurrently() {
        return (batch, context) -> {
            batch.forEach(this::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        };
    }

    MessageListenerOrderly orderly() {
        return (batch, context) -> {
            batch.forEach(this::add);
            return ConsumeOrderlyStatus.SUCCESS;
        };
    }

    List<String> bodies() {
        List<String> bodies = new ArrayList<>();
        for (MessageExt message : messages) {
            bodies.add(Ctx.text(message));
        }
        return bodies;
    }

    Set<String> distinct() {
        return new HashSet<>(bodies());
    }

    int size() {
        return messages.size();
    }

    /** Waits for exactly these bodies, each at least once; more of other kinds fail. */
    void awaitAll(Ctx ctx, long millis, Collection<String> expected) throws Exception {
        Set<String> wanted = new HashSet<>(expected);
        try {
            ctx.await(millis, () -> distinct().containsAll(wanted), "the consumers got all %d messages", wanted.size());
        } catch (Failure failure) {
            Set<String> missing = new HashSet<>(wanted);
            missing.removeAll(distinct());
            throw new Failure(failure.getMessage() + "; " + missing.size() + " are missing, for example "
                + missing.stream().sorted().limit(5).toList());
        }
        Set<String> extra = distinct();
        extra.removeAll(wanted);
        ctx.check(extra.isEmpty(), "no other messages arrive, but there are %s", extra);
    }

    void poll(DefaultLitePullConsumer consumer) {
        List<MessageExt> polled = consumer.poll(100);
        if (polled != null) {
            polled.forEach(this::add);
        }
    }

    /** Polls until all these bodies came, be it only after the client's next rebalance, which comes every 20 s. */
    void awaitPolled(Ctx ctx, DefaultLitePullConsumer consumer, List<String> expected) throws Exception {
        ctx.await(45_000, () -> {
            poll(consumer);
            return distinct().containsAll(expected);
        }, "poll returns all %d messages", expected.size());
    }

    /** As awaitAll, and none came twice. */
    void awaitOnce(Ctx ctx, long millis, Collection<String> expected) throws Exception {
        awaitAll(ctx, millis, expected);
        if (size() != expected.size()) {
            throw new Failure("the number of deliveries, none twice, is " + size() + ", expected " + expected.size()
                + twice());
        }
    }

    /** Who came more than once: the same id at two places was sent again by the producer, at one place delivered again. */
    private String twice() {
        Map<String, List<String>> seen = new TreeMap<>();
        long first = times.isEmpty() ? 0 : times.get(0);
        for (int i = 0; i < messages.size(); i++) {
            MessageExt message = messages.get(i);
            seen.computeIfAbsent(Ctx.text(message), body -> new ArrayList<>()).add(String.format(
                "%s at queue %d offset %d, stored %d ms and delivered %d ms after the first delivery, reconsumed %d times",
                message.getMsgId(), message.getQueueId(), message.getQueueOffset(),
                message.getStoreTimestamp() - first, times.get(i) - first, message.getReconsumeTimes()));
        }
        seen.values().removeIf(deliveries -> deliveries.size() < 2);
        return seen.isEmpty() ? "" : "; " + seen;
    }
}
