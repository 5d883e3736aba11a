package wire;

import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What a scenario works with: parameters, clients that are shut down at its end, checks, waiting. */
final class Ctx implements AutoCloseable {
    private static final AtomicInteger INSTANCES = new AtomicInteger();
    private static final Semaphore TRACING = new Semaphore(1, true);

    final String scenario;
    final String namesrv;
    final String run;
    private final Map<String, String> params;
    private final Map<String, Object> data = new LinkedHashMap<>();
    private final Deque<AutoCloseable> open = new ArrayDeque<>();
    private final List<DefaultMQPushConsumer> nudged = new ArrayList<>();
    private DefaultMQProducer admin;
    private DefaultMQPullConsumer reader;

    Ctx(String scenario, Map<String, String> params) {
        this.scenario = scenario;
        this.params = params;
        this.namesrv = params.get("namesrv");
        this.run = params.getOrDefault("run", "0");
    }

    // ---- parameters and results

    String param(String key, String otherwise) {
        return params.getOrDefault(key, otherwise);
    }

    int number(String key, int otherwise) {
        return Integer.parseInt(params.getOrDefault(key, Integer.toString(otherwise)));
    }

    void put(String key, Object value) {
        data.put(key, value);
    }

    Map<String, Object> data() {
        return data;
    }

    /** A name no other scenario, client version or road uses. */
    String name(String part) {
        return scenario.replaceAll("-phase\\d$", "") + "_" + part + "_" + run;
    }

    static String unique() {
        return "wire" + ProcessHandle.current().pid() + "x" + INSTANCES.incrementAndGet();
    }

    // ---- clients

    <C extends ClientConfig> C address(C client) {
        client.setNamesrvAddr(namesrv);
        client.setInstanceName(unique());
        client.setPollNameServerInterval(2000);
        client.setPersistConsumerOffsetInterval(1000);
        // the heartbeat that tells the broker a changed subscription is skipped when another one is on its way; until
        // the next one (30 s by default) pulls are answered with "subscription not latest", by every broker
        client.setHeartbeatBrokerInterval(2000);
        // on a busy machine an answer may be late
        client.setMqClientApiTimeout(15_000);
        return client;
    }

    <C extends AutoCloseable> C closing(C closeable) {
        open.push(closeable);
        return closeable;
    }

    /**
     * Before the first client that writes traces: until this scenario has shut its clients down no other one traces.
     * All tracing clients of a process that use the same name server share one inner client. One that starts while the
     * inner client shuts down for another gets it all the same, and what it traces is lost, whatever the broker is.
     */
    void onlyTracer() throws InterruptedException {
        TRACING.acquire();
        closing(TRACING::release);
    }

    DefaultMQProducer newProducer() {
        DefaultMQProducer producer = address(new DefaultMQProducer("P_" + name("producer")));
        producer.setSendMsgTimeout(10_000);
        return producer;
    }

    DefaultMQProducer started(DefaultMQProducer producer) throws Exception {
        producer.start();
        closing(producer::shutdown);
        return producer;
    }

    /** A started producer with nothing special about it. */
    DefaultMQProducer producer() throws Exception {
        if (admin == null) {
            admin = started(newProducer());
        }
        return admin;
    }

    DefaultMQPushConsumer newPush(String group) {
        DefaultMQPushConsumer consumer = address(new DefaultMQPushConsumer(group));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setConsumeThreadMin(4);
        consumer.setConsumeThreadMax(4);
        // by default a shutdown stores the offsets without what the last listeners have just done
        consumer.setAwaitTerminationMillisWhenShutdown(5_000);
        return consumer;
    }

    /**
     * Starts a consumer whose rebalance does not wait for the client's 20 s timer: its retry topic, created by its
     * first heartbeat, is looked at only at the next rebalance.
     */
    DefaultMQPushConsumer started(DefaultMQPushConsumer consumer) throws Exception {
        nudge(consumer);
        return startedAlone(consumer);
    }

    /** While the scenario waits, the consumer rebalances every second. */
    void nudge(DefaultMQPushConsumer consumer) {
        nudged.add(consumer);
    }

    /** Starts a consumer that rebalances when the client or the broker thinks so. */
    DefaultMQPushConsumer startedAlone(DefaultMQPushConsumer consumer) throws Exception {
        consumer.start();
        closing(consumer::shutdown);
        return consumer;
    }

    DefaultLitePullConsumer newLite(String group) {
        DefaultLitePullConsumer consumer = address(new DefaultLitePullConsumer(group));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPullThreadNums(2);
        consumer.setAutoCommitIntervalMillis(1000);
        return consumer;
    }

    DefaultLitePullConsumer started(DefaultLitePullConsumer consumer) throws Exception {
        consumer.start();
        closing(consumer::shutdown);
        return consumer;
    }

    DefaultMQPullConsumer puller(String group) throws Exception {
        DefaultMQPullConsumer consumer = address(new DefaultMQPullConsumer(group));
        consumer.start();
        closing(consumer::shutdown);
        return consumer;
    }

    private DefaultMQPullConsumer reader() throws Exception {
        if (reader == null) {
            reader = puller("R_" + name("reader"));
        }
        return reader;
    }

    /** Sets an enum by name: the enum's package differs between client versions. */
    static void setEnum(Object target, String setter, String value) throws Exception {
        for (Method method : target.getClass().getMethods()) {
            if (method.getName().equals(setter) && method.getParameterCount() == 1
                && method.getParameterTypes()[0].isEnum()) {
                for (Object constant : method.getParameterTypes()[0].getEnumConstants()) {
                    if (((Enum<?>) constant).name().equals(value)) {
                        method.invoke(target, constant);
                        return;
                    }
                }
            }
        }
        throw new NoSuchMethodException(setter);
    }

    /** createTopic of either generation, then waits for the route. */
    void createTopic(String topic, int queues) throws Exception {
        createTopic(producer(), topic, queues);
    }

    void createTopic(DefaultMQProducer producer, String topic, int queues) throws Exception {
        try {
            producer.getClass().getMethod("createTopic", String.class, String.class, int.class)
                .invoke(producer, "TBW102", topic, queues);
        } catch (NoSuchMethodException newer) {
            producer.getClass().getMethod("createTopic", String.class, String.class, int.class, Map.class)
                .invoke(producer, "TBW102", topic, queues, new HashMap<String, String>());
        }
        await(15_000, () -> {
            try {
                return producer.fetchPublishMessageQueues(topic).size() == queues;
            } catch (org.apache.rocketmq.client.exception.MQClientException notYet) {
                return false;
            }
        }, "the route of topic %s shows %d queues after createTopic", topic, queues);
    }

    List<MessageQueue> queues(String topic) throws Exception {
        List<MessageQueue> found = new ArrayList<>(reader().fetchSubscribeMessageQueues(topic));
        found.sort(Comparator.comparing(MessageQueue::getBrokerName).thenComparing(MessageQueue::getQueueId));
        return found;
    }

    // ---- messages

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(Message message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }

    SendResult send(Message message) throws Exception {
        return stored(producer().send(message));
    }

    SendResult stored(SendResult result) {
        equal(SendStatus.SEND_OK, result.getSendStatus(), "the send status");
        return result;
    }

    /** Sends bodies prefix0, prefix1, ... and returns them. */
    List<String> sendMany(String topic, String prefix, int count) throws Exception {
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            bodies.add(prefix + i);
            send(new Message(topic, bytes(prefix + i)));
        }
        return bodies;
    }

    /** Everything a queue holds, read by pulling from its first offset. */
    List<MessageExt> readQueue(MessageQueue queue, String expression) throws Exception {
        DefaultMQPullConsumer consumer = reader();
        List<MessageExt> messages = new ArrayList<>();
        long offset = consumer.minOffset(queue);
        long end = consumer.maxOffset(queue);
        int refusals = 0;
        while (offset < end) {
            PullResult result;
            try {
                result = consumer.pull(queue, expression, offset, 32);
            } catch (MQBrokerException subscriptionNotThereYet) {
                if (++refusals > 20) {
                    throw subscriptionNotThereYet;
                }
                continue;
            }
            switch (result.getPullStatus()) {
                case FOUND -> messages.addAll(result.getMsgFoundList());
                case NO_MATCHED_MSG -> { }
                case NO_NEW_MSG -> {
                    return messages;
                }
                default -> throw new Failure("pull at " + offset + " of " + queue + " (max " + end + ") says "
                    + result.getPullStatus());
            }
            check(result.getNextBeginOffset() > offset, "pull at %d of %s moves on", offset, queue);
            offset = result.getNextBeginOffset();
        }
        return messages;
    }

    List<MessageExt> readTopic(String topic) throws Exception {
        List<MessageExt> messages = new ArrayList<>();
        for (MessageQueue queue : queues(topic)) {
            messages.addAll(readQueue(queue, "*"));
        }
        return messages;
    }

    /** Waits until a topic holds so many messages and returns them. */
    List<MessageExt> readTopic(String topic, int count) throws Exception {
        return readTopicWhenThere(topic, count, 15_000);
    }

    List<MessageExt> readTopicWhenThere(String topic, int count, long millis) throws Exception {
        List<List<MessageExt>> last = new ArrayList<>();
        await(millis, () -> {
            try {
                last.add(0, readTopic(topic));
            } catch (org.apache.rocketmq.client.exception.MQClientException notYet) {
                return false;
            }
            return last.get(0).size() >= count;
        }, "topic %s holds %d messages", topic, count);
        equal(count, last.get(0).size(), "the number of messages in " + topic);
        return last.get(0);
    }

    // ---- checks

    void check(boolean holds, String sentence, Object... args) {
        if (!holds) {
            throw new Failure("expected that " + String.format(sentence, args));
        }
    }

    void equal(Object expected, Object actual, String what) {
        if (expected == null ? actual != null : !expected.equals(actual)) {
            throw new Failure(what + " is " + shorten(actual) + ", expected " + shorten(expected));
        }
    }

    private static String shorten(Object value) {
        String text = String.valueOf(value);
        return text.length() <= 600 ? text : text.substring(0, 600) + "… (" + text.length() + " characters)";
    }

    /** Polls until the condition holds; fails with the sentence after three times as many milliseconds as it may take. */
    void await(long millis, Callable<Boolean> condition, String sentence, Object... args) throws Exception {
        long deadline = System.nanoTime() + 3 * millis * 1_000_000;
        long nudge = System.nanoTime() + 1_000_000_000L;
        while (!condition.call()) {
            if (System.nanoTime() > nudge) {
                nudge += 1_000_000_000L;
                nudged.forEach(Ctx::rebalance);
            }
            if (System.nanoTime() > deadline) {
                throw new Failure("within " + 3 * millis + " ms it did not come true that " + String.format(sentence, args));
            }
            Thread.sleep(20);
        }
    }

    private static void rebalance(DefaultMQPushConsumer consumer) {
        var client = consumer.getDefaultMQPushConsumerImpl().getmQClientFactory();
        if (client != null) {
            client.rebalanceImmediately();
        }
    }

    /** Shuts down what the scenario opened, the newest first. */
    @Override
    public void close() throws Exception {
        Exception first = null;
        Hurry.begin();
        try {
            while (!open.isEmpty()) {
                try {
                    open.pop().close();
                } catch (Exception error) {
                    first = first == null ? error : first;
                }
            }
        } finally {
            Hurry.end();
        }
        if (first != null) {
            throw first;
        }
    }
}
