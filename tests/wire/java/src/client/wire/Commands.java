package wire;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Single jobs for a test that judges by itself; what they did is in the result's data. */
final class Commands {
    /** Group to what its held consumer got. */
    private static final Map<String, Inbox> HELD = new ConcurrentHashMap<>();

    private Commands() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("create-topic", ctx -> ctx.createTopic(ctx.param("topic", null), ctx.number("queues", 4)));
        all.put("send-many", Commands::sendMany);
        all.put("send-traced", Commands::sendTraced);
        all.put("publish-queues", Commands::publishQueues);
        all.put("send-until-it-fails", Commands::sendUntilItFails);
        all.put("read-all", Commands::readAll);
        all.put("query-keys", Commands::queryKeys);
        all.put("view", Commands::view);
        all.put("offsets", Commands::offsets);
        all.put("consume", Commands::consume);
        all.put("hold-consumer", Commands::holdConsumer);
        all.put("held", Commands::held);
    }

    private static Map<String, Object> sent(SendResult result, String body) {
        Map<String, Object> row = new LinkedHashMap<>();
        row.put("id", result.getMsgId());
        row.put("offset_id", result.getOffsetMsgId());
        row.put("queue", result.getMessageQueue().getQueueId());
        row.put("offset", result.getQueueOffset());
        row.put("body", body);
        return row;
    }

    /** Sends {@code prefix + i}, padded to a size, with tag {@code T(i mod 3)} and key {@code prefix + i}. */
    private static Message numbered(Ctx ctx, int i) {
        String name = ctx.param("prefix", "m") + i;
        int size = ctx.number("size", 0);
        String body = name + (size > name.length() ? "." + noise(i, size - name.length() - 1) : "");
        Message message = new Message(ctx.param("topic", null), "T" + i % 3, name, Ctx.bytes(body));
        message.putUserProperty("nr", Integer.toString(i));
        return message;
    }

    private static String noise(int seed, int length) {
        StringBuilder text = new StringBuilder(Math.max(length, 0));
        long x = seed * 2862933555777941757L + 3037000493L;
        while (text.length() < length) {
            x = x * 6364136223846793005L + 1442695040888963407L;
            text.append((char) ('a' + Math.floorMod(x >>> 33, 26L)));
        }
        return text.toString();
    }

    private static void sendMany(Ctx ctx) throws Exception {
        List<Object> rows = new ArrayList<>();
        int from = ctx.number("from", 0);
        int delay = ctx.number("delay", 0);
        for (int i = from; i < from + ctx.number("count", 10); i++) {
            Message message = numbered(ctx, i);
            if (delay > 0) {
                message.setDelayTimeLevel(delay);
            }
            rows.add(sent(ctx.send(message), Ctx.text(message)));
        }
        ctx.put("sent", rows);
    }

    /**
     * One message of a producer that writes traces, to the topic for traces or one of its own. The producer stays until
     * the trace is stored: its shutdown hands the trace to the threads of an asynchronous send and ends their
     * connections without waiting for them.
     */
    private static void sendTraced(Ctx ctx) throws Exception {
        ctx.onlyTracer();
        String traces = ctx.param("traces", null);
        DefaultMQProducer producer = ctx.started(
            ctx.address(new DefaultMQProducer("P_" + Ctx.unique(), true, traces)));
        Message message = new Message(ctx.param("topic", null), "T", "traced", Ctx.bytes("traced"));
        String id = ctx.stored(producer.send(message)).getMsgId();
        String where = traces == null ? "RMQ_SYS_TRACE_TOPIC" : traces;
        ctx.await(60_000, () -> ctx.readTopic(where).stream().anyMatch(one -> Ctx.text(one).contains(id)),
            "%s has a trace of %s", where, id);
        ctx.put("id", id);
    }

    /** How many queues a producer spreads the messages of a topic over. */
    private static void publishQueues(Ctx ctx) throws Exception {
        ctx.put("count", ctx.producer().fetchPublishMessageQueues(ctx.param("topic", null)).size());
    }

    /** Sends until the server goes away; data has what was acknowledged. */
    private static void sendUntilItFails(Ctx ctx) throws Exception {
        List<Object> rows = new ArrayList<>();
        ctx.put("sent", rows);
        DefaultMQProducer producer = ctx.newProducer();
        producer.setRetryTimesWhenSendFailed(0);
        producer.setSendMsgTimeout(3000);
        ctx.started(producer);
        for (int i = 0; i < ctx.number("most", 1_000_000); i++) {
            Message message = numbered(ctx, i);
            SendResult result;
            try {
                result = producer.send(message);
            } catch (Exception gone) {
                ctx.put("end", gone.toString());
                return;
            }
            rows.add(sent(ctx.stored(result), Ctx.text(message)));
        }
        throw new Failure("expected that the server goes away while messages are sent");
    }

    private static Map<String, Object> row(MessageExt message) {
        Map<String, Object> row = new LinkedHashMap<>();
        row.put("topic", message.getTopic());
        row.put("queue", message.getQueueId());
        row.put("offset", message.getQueueOffset());
        row.put("log_offset", message.getCommitLogOffset());
        row.put("store_time", message.getStoreTimestamp());
        row.put("born_time", message.getBornTimestamp());
        row.put("reconsume", message.getReconsumeTimes());
        row.put("flag", message.getFlag());
        row.put("id", message.getMsgId());
        row.put("body", Ctx.text(message));
        row.put("properties", new TreeMap<>(message.getProperties()));
        return row;
    }

    private static void readAll(Ctx ctx) throws Exception {
        List<Object> rows = new ArrayList<>();
        for (MessageExt message : ctx.readTopic(ctx.param("topic", null))) {
            rows.add(row(message));
        }
        ctx.put("messages", rows);
    }

    private static void queryKeys(Ctx ctx) throws Exception {
        String topic = ctx.param("topic", null);
        Map<String, Object> found = new TreeMap<>();
        for (String key : ctx.param("keys", "").split(",")) {
            List<Object> bodies = new ArrayList<>();
            List<MessageExt> messages = List.of();
            try {
                messages = ctx.producer().queryMessage(topic, key, 64, 0, Long.MAX_VALUE).getMessageList();
            } catch (MQClientException nothing) {
                // an empty list says it
            }
            messages.forEach(message -> bodies.add(Ctx.text(message)));
            found.put(key, bodies);
        }
        ctx.put("found", found);
    }

    private static void view(Ctx ctx) throws Exception {
        Map<String, Object> found = new TreeMap<>();
        for (String id : ctx.param("ids", "").split(",")) {
            found.put(id, row(ctx.producer().viewMessage(ctx.param("topic", null), id)));
        }
        ctx.put("found", found);
    }

    /** Per queue: min, max, the offset at each of the given times, and the group's consumer offset. */
    private static void offsets(Ctx ctx) throws Exception {
        String topic = ctx.param("topic", null);
        DefaultMQPullConsumer consumer = ctx.puller(ctx.param("group", "R_" + ctx.name("offsets")));
        List<Object> rows = new ArrayList<>();
        for (MessageQueue queue : new java.util.TreeSet<>(consumer.fetchSubscribeMessageQueues(topic))) {
            Map<String, Object> row = new LinkedHashMap<>();
            row.put("queue", queue.getQueueId());
            row.put("min", consumer.minOffset(queue));
            row.put("max", consumer.maxOffset(queue));
            List<Object> searched = new ArrayList<>();
            for (String time : ctx.param("times", "").split(",")) {
                if (!time.isEmpty()) {
                    searched.add(consumer.searchOffset(queue, Long.parseLong(time)));
                }
            }
            row.put("searched", searched);
            if (ctx.param("group", null) != null) {
                row.put("consumed", consumer.fetchConsumeOffset(queue, true));
            }
            rows.add(row);
        }
        ctx.put("queues", rows);
    }

    /** A push consumer until so many different messages came; commits and leaves. */
    private static void consume(Ctx ctx) throws Exception {
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.param("group", null));
        consumer.subscribe(ctx.param("topic", null), ctx.param("tags", "*"));
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        int count = ctx.number("count", 1);
        ctx.await(ctx.number("millis", 20_000), () -> inbox.distinct().size() >= count, "%d messages arrive", count);
        GroupScenarios.awaitStored(ctx, consumer, ctx.param("topic", null));
        ctx.put("bodies", new ArrayList<>(new HashSet<>(inbox.bodies())));
    }

    /** A producer and a push consumer that stay until the program ends, for tools that look at them. */
    private static void holdConsumer(Ctx ctx) throws Exception {
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.param("group", null));
        for (String topic : Arrays.asList(ctx.param("topic", "").split(","))) {
            consumer.subscribe(topic, "*");
        }
        consumer.registerMessageListener(inbox.concurrently());
        consumer.start();
        DefaultMQProducer producer = ctx.address(new DefaultMQProducer(ctx.param("producer-group", "P_held")));
        producer.start();
        ctx.stored(producer.send(new Message(ctx.param("topic", "").split(",")[0], null, "held-key", Ctx.bytes("held"))));
        ctx.await(20_000, () -> inbox.size() >= 1, "the held consumer gets the held producer's message");
        HELD.put(ctx.param("group", null), inbox);
        ctx.put("client", consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId());
    }

    /** Waits until a held consumer got at least so many deliveries since it started. */
    private static void held(Ctx ctx) throws Exception {
        Inbox inbox = HELD.get(ctx.param("group", null));
        int least = ctx.number("least", 0);
        ctx.await(ctx.number("millis", 20_000), () -> inbox.size() >= least, "the held consumer gets %d deliveries", least);
        ctx.put("bodies", inbox.bodies());
    }
}
