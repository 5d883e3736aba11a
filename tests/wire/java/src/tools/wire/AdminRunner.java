package wire;

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Runs mqadmin commands one after another in this process: {@code id TAB milliseconds TAB argument TAB ...} a line
 * in, one JSON object with what the command printed a line out. A command still running after its milliseconds
 * (some repeat for ever) is interrupted and counts as ended.
 */
public final class AdminRunner {
    private AdminRunner() {
    }

    /** The tool makes its command objects once; some hold a client that works only once. */
    private static void forgetCommands() throws ReflectiveOperationException {
        Field field = MQAdminStartup.class.getDeclaredField("SUB_COMMANDS");
        field.setAccessible(true);
        ((Collection<?>) field.get(null)).clear();
    }

    /** The tool's client waits at its end up to 3 s for a thread that polls its queue for 3 s: wakes that thread. */
    private static void hurryShutdown(Thread command) {
        for (StackTraceElement frame : command.getStackTrace()) {
            if (frame.getClassName().endsWith("NettyRemotingClient") && frame.getMethodName().equals("shutdown")) {
                for (Thread thread : Thread.getAllStackTraces().keySet()) {
                    if (thread.getName().equals("NettyEventExecutor")) {
                        thread.interrupt();
                    }
                }
            }
        }
    }

    public static void main(String[] ignored) throws Exception {
        PrintStream results = System.out;
        PrintStream errors = System.err;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t", -1);
            String[] arguments = new String[fields.length - 2];
            for (int i = 0; i < arguments.length; i++) {
                arguments[i] = URLDecoder.decode(fields[i + 2], StandardCharsets.UTF_8);
            }
            ByteArrayOutputStream printed = new ByteArrayOutputStream();
            PrintStream capture = new PrintStream(printed, true, StandardCharsets.UTF_8);
            Throwable[] thrown = {null};
            long start = System.currentTimeMillis();
            forgetCommands();
            System.setOut(capture);
            System.setErr(capture);
            Thread command = new Thread(() -> {
                try {
                    MQAdminStartup.main0(arguments, null);
                } catch (Throwable error) {
                    thrown[0] = error;
                }
            }, "mqadmin");
            command.setDaemon(true);
            command.start();
            long deadline = start + Long.parseLong(fields[1]);
            while (command.isAlive() && System.currentTimeMillis() < deadline) {
                command.join(50);
                hurryShutdown(command);
            }
            boolean ended = !command.isAlive();
            if (!ended) {
                command.interrupt();
                command.join(5_000);
            }
            System.setOut(results);
            System.setErr(errors);
            Map<String, Object> result = new LinkedHashMap<>();
            result.put("id", fields[0]);
            result.put("ok", thrown[0] == null);
            result.put("error", thrown[0] == null ? null : thrown[0].toString());
            result.put("ended", ended);
            result.put("out", printed.toString(StandardCharsets.UTF_8));
            result.put("millis", System.currentTimeMillis() - start);
            results.println(Json.write(result));
            results.flush();
        }
        System.exit(0);
    }
}
