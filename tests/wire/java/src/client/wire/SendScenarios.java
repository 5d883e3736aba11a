package wire;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Every way to send, what the client gets back, and what lies in the topic afterwards. */
final class SendScenarios {
    /** With the client's IPv4 or, on a host without one, IPv6 address. */
    private static final String UNIQUE_KEY = "[0-9A-F]{32}|[0-9A-F]{56}";

    private SendScenarios() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("send-sync", SendScenarios::sync);
        all.put("send-async", SendScenarios::async);
        all.put("send-oneway", SendScenarios::oneway);
        all.put("send-batch", SendScenarios::batch);
        all.put("send-ordered", SendScenarios::ordered);
        all.put("send-to-queue", SendScenarios::toQueue);
        all.put("send-fields", SendScenarios::fields);
        all.put("send-large", SendScenarios::large);
        all.put("send-too-large", SendScenarios::tooLarge);
        all.put("send-auto-create", SendScenarios::autoCreate);
        all.put("send-create-topic", SendScenarios::createTopic);
        all.put("send-vip", SendScenarios::vip);
    }

    private static void sync(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        Map<Integer, Long> next = new HashMap<>();
        Set<String> ids = new HashSet<>();
        Set<String> offsetIds = new HashSet<>();
        for (int i = 0; i < 20; i++) {
            SendResult result = ctx.send(new Message(topic, Ctx.bytes("body " + i)));
            MessageQueue queue = result.getMessageQueue();
            ctx.equal(topic, queue.getTopic(), "the topic in the send result");
            ctx.check(!queue.getBrokerName().isEmpty(), "the send result names the broker");
            long expected = next.getOrDefault(queue.getQueueId(), 0L);
            ctx.equal(expected, result.getQueueOffset(), "the queue offset of send " + i);
            next.put(queue.getQueueId(), expected + 1);
            ctx.check(result.getMsgId().matches(UNIQUE_KEY), "msgId %s is 32 or 56 hex digits", result.getMsgId());
            ctx.check(result.getOffsetMsgId().matches("[0-9A-F]{32}"), "offsetMsgId %s is 32 hex digits",
                result.getOffsetMsgId());
            ids.add(result.getMsgId());
            offsetIds.add(result.getOffsetMsgId());
            ctx.equal("DefaultRegion", result.getRegionId(), "the region in the send result");
            ctx.check(result.isTraceOn(), "trace is on in the send result");
        }
        ctx.equal(4, next.size(), "the number of queues that 20 sends reached");
        ctx.equal(20, ids.size(), "the number of different msgIds");
        ctx.equal(20, offsetIds.size(), "the number of different offsetMsgIds");
        Set<String> bodies = new TreeSet<>();
        for (MessageExt message : ctx.readTopic(topic, 20)) {
            bodies.add(Ctx.text(message));
            ctx.check(ids.contains(message.getMsgId()), "the pulled msgId %s was in a send result", message.getMsgId());
        }
        ctx.equal(20, bodies.size(), "the number of different bodies pulled");
    }

    private static void async(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        DefaultMQProducer producer = ctx.producer();
        CountDownLatch done = new CountDownLatch(60);
        ConcurrentLinkedQueue<String> errors = new ConcurrentLinkedQueue<>();
        Set<String> ids = java.util.concurrent.ConcurrentHashMap.newKeySet();
        for (int i = 0; i < 60; i++) {
            producer.send(new Message(topic, "TagA", Ctx.bytes("async " + i)), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    if (result.getSendStatus() != SendStatus.SEND_OK) {
                        errors.add(result.toString());
                    }
                    ids.add(result.getMsgId());
                    done.countDown();
                }

                @Override
                public void onException(Throwable error) {
                    errors.add(error.toString());
                    done.countDown();
                }
            });
        }
        ctx.check(done.await(20, TimeUnit.SECONDS), "all 60 callbacks are called, %d are missing", done.getCount());
        ctx.check(errors.isEmpty(), "no async send fails: %s", errors);
        Set<String> pulled = new HashSet<>();
        ctx.readTopic(topic, 60).forEach(message -> pulled.add(message.getMsgId()));
        ctx.equal(ids, pulled, "the set of pulled msgIds");
    }

    private static void oneway(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 2);
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < 50; i++) {
            sent.add("oneway " + i);
            ctx.producer().sendOneway(new Message(topic, Ctx.bytes("oneway " + i)));
        }
        Set<String> bodies = new HashSet<>();
        ctx.readTopic(topic, 50).forEach(message -> bodies.add(Ctx.text(message)));
        ctx.equal(sent, bodies, "the bodies in the topic");
    }

    private static void batch(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 30; i++) {
            Message message = new Message(topic, "Tag" + i % 2, "key" + i, Ctx.bytes("batch " + i));
            message.putUserProperty("nr", Integer.toString(i));
            batch.add(message);
        }
        SendResult result = ctx.stored(ctx.producer().send(batch));
        String[] ids = result.getMsgId().split(",");
        String[] offsetIds = result.getOffsetMsgId().split(",");
        ctx.equal(30, ids.length, "the number of msgIds in the result of a batch of 30");
        ctx.equal(30, offsetIds.length, "the number of offsetMsgIds in the result of a batch of 30");
        ctx.equal(0L, result.getQueueOffset(), "the queue offset of the batch");
        MessageQueue queue = result.getMessageQueue();
        List<MessageExt> messages = ctx.readQueue(queue, "*");
        ctx.equal(30, messages.size(), "the number of messages in the queue of the batch");
        List<String> pulled = messages.stream().map(MessageExt::getMsgId).toList();
        ctx.put("pulled", pulled.subList(0, 3));
        // clients that give the whole batch a unique key of its own: the broker adds the properties of the batch
        // to those of each message, and the last value of a name counts
        boolean common = new HashSet<>(pulled).size() == 1;
        ctx.check(common || pulled.equals(List.of(ids)), "the pulled msgIds %s are those of the result %s", pulled,
            List.of(ids));
        for (int i = 0; i < 30; i++) {
            MessageExt message = messages.get(i);
            ctx.equal("batch " + i, Ctx.text(message), "body " + i + " of the batch");
            ctx.equal((long) i, message.getQueueOffset(), "queue offset of message " + i);
            ctx.equal("Tag" + i % 2, message.getTags(), "tag of message " + i);
            ctx.equal("key" + i, message.getKeys(), "key of message " + i);
            ctx.equal(Integer.toString(i), message.getUserProperty("nr"), "user property of message " + i);
            MessageExt viewed = ctx.producer().viewMessage(topic, offsetIds[i]);
            ctx.equal("batch " + i, Ctx.text(viewed), "what viewMessage finds at offsetMsgId " + i);
        }
        SendResult second = ctx.stored(ctx.producer().send(batch.subList(0, 5), queue));
        ctx.equal(30L, second.getQueueOffset(), "the queue offset of the second batch");
        ctx.equal(35, ctx.readQueue(queue, "*").size(), "the number of messages after the second batch");
        ctx.equal(18, ctx.readQueue(queue, "Tag0").size(), "the number of messages that match Tag0");
    }

    private static void ordered(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 4);
        for (int i = 0; i < 40; i++) {
            int order = i % 10;
            SendResult result = ctx.stored(ctx.producer().send(new Message(topic, Ctx.bytes(order + ":" + i / 10)),
                (queues, message, argument) -> queues.get((Integer) argument % queues.size()), order));
            ctx.equal(order % 4, result.getMessageQueue().getQueueId(), "the queue of order " + order);
        }
        Map<String, Integer> next = new HashMap<>();
        for (MessageExt message : ctx.readTopic(topic, 40)) {
            String[] parts = Ctx.text(message).split(":");
            ctx.equal(next.getOrDefault(parts[0], 0), Integer.valueOf(parts[1]), "the next step of order " + parts[0]);
            next.merge(parts[0], 1, Integer::sum);
        }
        ctx.equal(10, next.size(), "the number of orders");
    }

    private static void toQueue(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 3);
        MessageQueue queue = ctx.queues(topic).get(2);
        for (int i = 0; i < 7; i++) {
            SendResult result = ctx.stored(ctx.producer().send(new Message(topic, Ctx.bytes("q" + i)), queue));
            ctx.equal(queue, result.getMessageQueue(), "the queue in the send result");
            ctx.equal((long) i, result.getQueueOffset(), "the queue offset");
        }
        ctx.equal(7, ctx.readQueue(queue, "*").size(), "the number of messages in the chosen queue");
        ctx.equal(7, ctx.readTopic(topic).size(), "the number of messages in the whole topic");
    }

    /** Unicode everywhere, and all the fields a consumer sees. */
    private static void fields(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        Message message = new Message(topic, "标签-é", "schlüssel 鍵 🔑", Ctx.bytes("Grüße, 世界 🌍"));
        message.setFlag(42);
        message.putUserProperty("stadt", "Zürich – 東京");
        message.putUserProperty("equals", "a=b;c:d,e");
        message.setBuyerId("buyer");
        long before = System.currentTimeMillis();
        SendResult result = ctx.send(message);
        MessageExt got = ctx.readTopic(topic, 1).get(0);
        ctx.equal(topic, got.getTopic(), "the topic");
        ctx.equal("Grüße, 世界 🌍", Ctx.text(got), "the body");
        ctx.equal("标签-é", got.getTags(), "the tag");
        ctx.equal("schlüssel 鍵 🔑", got.getKeys(), "the keys");
        ctx.equal("Zürich – 東京", got.getUserProperty("stadt"), "the unicode property");
        ctx.equal("a=b;c:d,e", got.getUserProperty("equals"), "the property with punctuation");
        ctx.equal("buyer", got.getBuyerId(), "the buyer id");
        ctx.equal(42, got.getFlag(), "the flag");
        ctx.equal(0, got.getSysFlag() & ~0x0100, "the sysFlag of a plain message");
        ctx.equal(0, got.getQueueId(), "the queue id");
        ctx.equal(0L, got.getQueueOffset(), "the queue offset");
        ctx.equal(0, got.getReconsumeTimes(), "the reconsume times");
        ctx.equal(0L, got.getPreparedTransactionOffset(), "the prepared transaction offset");
        ctx.equal(result.getMsgId(), got.getMsgId(), "the msgId");
        ctx.equal(result.getMsgId(), got.getProperty("UNIQ_KEY"), "the UNIQ_KEY property");
        ctx.check(got.getProperty("CLUSTER") != null, "the broker adds the property CLUSTER");
        ctx.check(Math.abs(got.getBornTimestamp() - before) < 60_000, "the born time is about now");
        ctx.check(got.getStoreTimestamp() >= got.getBornTimestamp() - 1000
            && got.getStoreTimestamp() < before + 60_000, "the store time is about now");
        ctx.equal("127.0.0.1", got.getBornHostString(), "the born host");
        ctx.check(got.getStoreHost().toString().matches(".*127\\.0\\.0\\.1:\\d+"), "the store host is the broker, not %s",
            got.getStoreHost());
        ctx.check(got.getStoreSize() > 100, "the store size is set");
        ctx.check(got.getCommitLogOffset() >= 0, "the commit log offset is set");
        java.util.zip.CRC32 crc = new java.util.zip.CRC32();
        crc.update(got.getBody());
        ctx.equal((int) (crc.getValue() & 0x7FFFFFFF), got.getBodyCRC(), "the body CRC");
        ctx.equal(1, ctx.readQueue(ctx.queues(topic).get(0), "标签-é").size(), "what a pull by the unicode tag finds");
        ctx.equal(0, ctx.readQueue(ctx.queues(topic).get(0), "标签").size(), "what a pull by another tag finds");
    }

    private static void large(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        byte[] text = Ctx.bytes("compress me ".repeat(20_000)); // above 4 KiB: the client compresses it
        byte[] noise = new byte[3_900_000];
        new Random(7).nextBytes(noise);
        byte[] small = Ctx.bytes("x".repeat(4095));
        ctx.send(new Message(topic, text));
        ctx.send(new Message(topic, noise));
        ctx.send(new Message(topic, small));
        List<MessageExt> messages = ctx.readTopic(topic, 3);
        ctx.check(java.util.Arrays.equals(text, messages.get(0).getBody()), "the compressed body comes back");
        ctx.check(messages.get(0).getStoreSize() < 20_000, "the compressed body is stored small (%d bytes)",
            messages.get(0).getStoreSize());
        ctx.check(java.util.Arrays.equals(noise, messages.get(1).getBody()), "the body of 3.9 MB comes back");
        ctx.check(java.util.Arrays.equals(small, messages.get(2).getBody()), "the body of 4095 bytes comes back");
        Inbox inbox = new Inbox();
        var consumer = ctx.newPush(ctx.name("g"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        ctx.await(20_000, () -> inbox.size() == 3, "a push consumer gets the three large messages");
    }

    private static void tooLarge(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 1);
        DefaultMQProducer producer = ctx.newProducer();
        producer.setMaxMessageSize(16 << 20);
        ctx.started(producer);
        byte[] noise = new byte[(4 << 20) + 100_000];
        new Random(8).nextBytes(noise);
        try {
            producer.send(new Message(topic, noise));
            throw new Failure("expected that the broker refuses a body above maxMessageSize");
        } catch (MQBrokerException refused) {
            ctx.equal(13, refused.getResponseCode(), "the response code for a too large message");
        }
        try {
            ctx.producer().send(new Message(topic, noise));
            throw new Failure("expected that the client refuses a body above its own limit");
        } catch (MQClientException refused) {
            ctx.equal(13, refused.getResponseCode(), "the client's code for a too large message");
        }
        ctx.stored(producer.send(new Message(topic, Ctx.bytes("still works"))));
        ctx.readTopic(topic, 1);
    }

    private static void autoCreate(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        for (int i = 0; i < 8; i++) {
            ctx.send(new Message(topic, Ctx.bytes("auto " + i)));
        }
        ctx.await(15_000, () -> {
            try {
                return ctx.queues(topic).size() == 4;
            } catch (MQClientException notYet) {
                return false;
            }
        }, "the topic exists with 4 queues after a send to it");
        ctx.readTopic(topic, 8);
    }

    private static void createTopic(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        ctx.createTopic(topic, 6);
        ctx.equal(6, ctx.queues(topic).size(), "the number of read queues of the created topic");
        for (MessageQueue queue : ctx.queues(topic)) {
            ctx.equal(0L, ctx.producer().maxOffset(queue), "the max offset of an empty queue");
            ctx.equal(0L, ctx.producer().minOffset(queue), "the min offset of an empty queue");
        }
        ctx.createTopic(topic, 8);
        ctx.await(15_000, () -> ctx.queues(topic).size() == 8, "a second createTopic widens the topic to 8 queues");
        Set<Integer> used = new HashSet<>();
        DefaultMQProducer fresh = ctx.started(ctx.newProducer());
        for (int i = 0; i < 16; i++) {
            used.add(fresh.send(new Message(topic, Ctx.bytes("wide" + i))).getMessageQueue().getQueueId());
        }
        ctx.equal(8, used.size(), "the number of queues that 16 sends reach");
    }

    /** Sends, offsets and queries go to listenPort - 2 when the VIP channel is on. */
    private static void vip(Ctx ctx) throws Exception {
        String topic = ctx.name("t");
        DefaultMQProducer producer = ctx.newProducer();
        producer.setVipChannelEnabled(true);
        ctx.started(producer);
        ctx.createTopic(producer, topic, 2);
        List<String> bodies = new ArrayList<>();
        SendResult last = null;
        for (int i = 0; i < 10; i++) {
            bodies.add("vip " + i);
            last = ctx.stored(producer.send(new Message(topic, null, "vip-key", Ctx.bytes("vip " + i))));
        }
        long stored = 0;
        for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
            stored += producer.maxOffset(queue);
        }
        ctx.equal(10L, stored, "the sum of maxOffset of all queues, asked on the VIP port,");
        ctx.equal("vip 9", Ctx.text(producer.viewMessage(topic, last.getOffsetMsgId())), "the message viewed");
        Inbox inbox = new Inbox();
        var consumer = ctx.newPush(ctx.name("g"));
        consumer.setVipChannelEnabled(true);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.concurrently());
        ctx.started(consumer);
        inbox.awaitOnce(ctx, 15_000, bodies);
    }
}
