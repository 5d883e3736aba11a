package wire;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages in transactions. The server asks about open ones every second, from an age of two seconds on. */
final class TransactionScenarios {
    private static final Map<String, List<String>> KEPT = new ConcurrentHashMap<>();

    private TransactionScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("transaction-end", TransactionScenarios::end);
        all.put("transaction-messages", TransactionScenarios::messages);
        all.put("transaction-check", TransactionScenarios::check);
        all.put("transaction-own-time", TransactionScenarios::ownTime);
        all.put("transaction-give-up", TransactionScenarios::giveUp);
        all.put("transactions", TransactionScenarios::begin);
        all.put("answer-checks", TransactionScenarios::answer);
        all.put("restart-transaction-phase1", TransactionScenarios::restart1);
        all.put("restart-transaction-phase2", TransactionScenarios::restart2);
    }

    /** Does what the body says: the first word is the local transaction's outcome, the second that of checks. */
    private static final class Listener implements TransactionListener {
        final List<MessageExt> checked = new CopyOnWriteArrayList<>();
        final Map<String, String> ids = new ConcurrentHashMap<>();
        private final Set<String> answered = ConcurrentHashMap.newKeySet();

        @Override
        public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
            ids.put(Ctx.text(message), message.getTransactionId());
            return state(Ctx.text(message).split(" ")[0]);
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt message) {
            checked.add(message);
            LocalTransactionState state = state(Ctx.text(message).split(" ")[1]);
            // asked again, before the first answer was there: Apache's broker would deliver it once more
            boolean first = answered.add(Ctx.text(message));
            return first ? state : LocalTransactionState.UNKNOW;
        }

        int checks(String body) {
            return (int) checked.stream().filter(message -> Ctx.text(message).equals(body)).count();
        }

        private static LocalTransactionState state(String word) {
            return switch (word) {
                case "commit" -> LocalTransactionState.COMMIT_MESSAGE;
                case "rollback" -> LocalTransactionState.ROLLBACK_MESSAGE;
                default -> LocalTransactionState.UNKNOW;
            };
        }
    }

    private static TransactionMQProducer producer(Ctx ctx, Listener listener) throws Exception {
        TransactionMQProducer producer = ctx.address(new TransactionMQProducer("T_" + ctx.name("producer")));
        producer.setSendMsgTimeout(10_000);
        producer.setTransactionListener(listener);
        producer.start();
        ctx.closing(producer::shutdown);
        return producer;
    }

    private static TransactionSendResult send(Ctx ctx, TransactionMQProducer producer, Message message) throws Exception {
        TransactionSendResult result = producer.sendMessageInTransaction(message, "argument");
        ctx.equal(SendStatus.SEND_OK, result.getSendStatus(), "the send status");
        return result;
    }

    private static List<String> sendAll(Ctx ctx, TransactionMQProducer producer, String topic, String words, int count)
        throws Exception {
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            String body = words + " " + i;
            bodies.add(body);
            send(ctx, producer, new Message(topic, Ctx.bytes(body)));
        }
        return bodies;
    }

    private static Inbox consume(Ctx ctx, String topic) throws Exception {
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        return inbox;
    }

    private static void end(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        Inbox inbox = consume(ctx, topic);
        Listener listener = new Listener();
        TransactionMQProducer producer = producer(ctx, listener);
        List<String> committed = sendAll(ctx, producer, topic, "commit never", 20);
        sendAll(ctx, producer, topic, "rollback never", 20);
        committed.addAll(sendAll(ctx, producer, topic, "commit never again", 10));
        inbox.awaitOnce(ctx, 20_000, committed);
        // a decision that was long on its way may have been asked for
        Thread.sleep(1000);
        int before = listener.checked.size();
        // two rounds of checks
        Thread.sleep(4500);
        ctx.equal(before, listener.checked.size(), "the number of checks after what was decided is consumed");
        inbox.awaitOnce(ctx, 1000, committed);
        ctx.equal(30, ctx.readTopic(topic, 30).size(), "the number of messages in the topic");
    }

    private static void messages(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        Listener listener = new Listener();
        TransactionMQProducer producer = producer(ctx, listener);
        Map<String, TransactionSendResult> results = new HashMap<>();
        for (String words : List.of("commit never", "unknown commit")) {
            String body = words + " ü".repeat(4000); // compressed
            Message message = new Message(topic, "Tag✓", "key1 key2", Ctx.bytes(body));
            message.putUserProperty("stadt", "Zürich");
            message.setFlag(77);
            TransactionSendResult result = send(ctx, producer, message);
            ctx.equal(result.getMsgId(), result.getTransactionId(), "the transaction id");
            ctx.equal(result.getTransactionId(), listener.ids.get(body), "the transaction id of the local transaction");
            results.put(body, result);
        }
        for (MessageExt message : ctx.readTopicWhenThere(topic, 2, 20_000)) {
            TransactionSendResult result = results.get(Ctx.text(message));
            ctx.check(result != null, "the body is one of those sent");
            ctx.equal("Tag✓", message.getTags(), "the tag");
            ctx.equal("key1 key2", message.getKeys(), "the keys");
            ctx.equal("Zürich", message.getUserProperty("stadt"), "a property");
            if (Ctx.text(message).startsWith("commit")) {
                ctx.equal(77, message.getFlag(), "the flag"); // Apache's broker forgets it with the first check
            }
            ctx.equal(result.getMsgId(), message.getMsgId(), "the message id");
            ctx.equal(result.getMessageQueue().getQueueId(), message.getQueueId(), "the queue");
            ctx.equal(8, message.getSysFlag() & 0xC, "the transaction bits");
            ctx.equal("T_" + ctx.name("producer"), message.getProperty("PGROUP"), "the producer group");
        }
        ctx.equal(1L, listener.checked.stream().map(Ctx::text).distinct().count(), "the number of messages asked for");
        MessageExt checked = listener.checked.get(0);
        ctx.equal(topic, checked.getTopic(), "the topic of the check");
        ctx.equal("Tag✓", checked.getTags(), "the tag of the check");
        ctx.equal(77, checked.getFlag(), "the flag of the check");
        ctx.equal(listener.ids.get(Ctx.text(checked)), checked.getTransactionId(), "the transaction id of the check");
        ctx.equal("1", checked.getProperty("TRANSACTION_CHECK_TIMES"), "the count of the check");
        ctx.await(10_000, () -> QueryScenarios.query(ctx.producer(), topic, "key1", 32, 0, Long.MAX_VALUE).size() == 2,
            "a query by key finds both messages");
    }

    private static void check(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        Inbox inbox = consume(ctx, topic);
        Listener listener = new Listener();
        TransactionMQProducer producer = producer(ctx, listener);
        List<String> committed = sendAll(ctx, producer, topic, "unknown commit", 8);
        List<String> rolledBack = sendAll(ctx, producer, topic, "unknown rollback", 8);
        inbox.awaitOnce(ctx, 20_000, committed);
        ctx.await(10_000, () -> rolledBack.stream().allMatch(body -> listener.checks(body) > 0), "all are asked for");
        int[] checks = {listener.checked.size()};
        long[] last = {System.nanoTime()};
        ctx.await(10_000, () -> {
            if (listener.checked.size() != checks[0]) {
                checks[0] = listener.checked.size();
                last[0] = System.nanoTime();
            }
            return System.nanoTime() - last[0] > 3_500_000_000L;
        }, "three rounds of checks have nothing to ask");
        // an answer that takes longer than a second, on a busy machine, finds that its message is asked for again
        ctx.check(checks[0] >= 16 && checks[0] < 24, "each of 16 is asked for once, but there were %d checks", checks[0]);
        inbox.awaitOnce(ctx, 1000, committed);
    }

    /** A message with a longer time before its first check holds up no other, and is asked for in the end. */
    private static void ownTime(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Listener listener = new Listener();
        TransactionMQProducer producer = producer(ctx, listener);
        Message patient = new Message(topic, Ctx.bytes("unknown commit patient"));
        patient.putUserProperty("CHECK_IMMUNITY_TIME_IN_SECONDS", "8");
        long start = System.currentTimeMillis();
        send(ctx, producer, patient);
        send(ctx, producer, new Message(topic, Ctx.bytes("unknown commit other")));
        ctx.await(7000, () -> listener.checks("unknown commit other") > 0, "the other is asked for");
        ctx.equal(0, listener.checks("unknown commit patient"), "the checks of the patient one until then");
        ctx.await(15_000, () -> listener.checks("unknown commit patient") > 0, "the patient one is asked for");
        ctx.check(System.currentTimeMillis() - start >= 8000, "the patient one is asked for after 8 s");
        ctx.readTopicWhenThere(topic, 2, 10_000);
    }

    /** The server stops asking after three checks. */
    private static void giveUp(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Listener listener = new Listener();
        TransactionMQProducer producer = producer(ctx, listener);
        String body = "unknown unknown " + ctx.run;
        send(ctx, producer, new Message(topic, Ctx.bytes(body)));
        ctx.await(20_000, () -> listener.checks(body) == 3, "it is asked for three times");
        ctx.await(20_000, () -> {
            try {
                return ctx.readTopic("TRANS_CHECK_MAX_TIME_TOPIC").stream().anyMatch(m -> Ctx.text(m).equals(body));
            } catch (org.apache.rocketmq.client.exception.MQClientException noRouteYet) {
                return false;
            }
        }, "it is in the topic of those nobody decided about");
        ctx.equal(3, listener.checks(body), "the number of checks");
        ctx.equal(0, ctx.readTopic(topic).size(), "the number of messages in the topic");
    }

    private static void restart1(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        TransactionMQProducer producer = producer(ctx, new Listener());
        List<String> bodies = sendAll(ctx, producer, topic, "commit commit", 5);
        bodies.addAll(sendAll(ctx, producer, topic, "unknown commit", 5));
        sendAll(ctx, producer, topic, "rollback rollback", 5);
        KEPT.put(ctx.name("bodies"), bodies);
    }

    /** Another producer of the group is asked. */
    private static void restart2(Ctx ctx) throws Exception {
        List<String> bodies = KEPT.remove(ctx.name("bodies"));
        ctx.check(bodies != null, "phase 1 of this scenario went well");
        String topic = ctx.name("t");
        // without a message of its own it knows no broker to send heartbeats to
        sendAll(ctx, producer(ctx, new Listener()), topic, "rollback rollback", 1);
        consume(ctx, topic).awaitOnce(ctx, 40_000, bodies);
    }

    /** For a test that judges by itself: messages of each kind, and a producer that is gone then. */
    private static void begin(Ctx ctx) throws Exception {
        TransactionMQProducer producer = ctx.address(new TransactionMQProducer(ctx.param("group", null)));
        producer.setTransactionListener(new Listener());
        producer.setSendMsgTimeout(10_000);
        producer.start();
        ctx.closing(producer::shutdown);
        for (String words : ctx.param("words", "").split(",")) {
            sendAll(ctx, producer, ctx.param("topic", null), words, ctx.number("count", 1));
        }
        // the decisions are sent with no answer: the last one is on its way
        Thread.sleep(300);
    }

    /** A producer that answers checks about so many messages, or waits so long for one; data has the bodies it was asked about. */
    private static void answer(Ctx ctx) throws Exception {
        Listener listener = new Listener();
        TransactionMQProducer producer = ctx.address(new TransactionMQProducer(ctx.param("group", null)));
        producer.setTransactionListener(listener);
        producer.start();
        ctx.closing(producer::shutdown);
        // without a message of its own it knows no broker to send heartbeats to
        sendAll(ctx, producer, ctx.param("topic", null), "rollback rollback", 1);
        int count = ctx.number("count", 0);
        if (count > 0) {
            ctx.await(40_000, () -> listener.checked.stream().map(Ctx::text).distinct().count() >= count,
                "%d messages are asked for", count);
        }
        Thread.sleep(ctx.number("wait", 500));
        List<Object> bodies = new ArrayList<>();
        listener.checked.forEach(message -> bodies.add(Ctx.text(message)));
        ctx.put("checked", bodies);
    }
}
