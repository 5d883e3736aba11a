package wire;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * Reads one job a line from standard input: {@code id TAB scenario TAB key=value TAB ...} (values
 * percent-encoded) and prints one JSON object a line when a job ends. Jobs run side by side on
 * {@code args[0]} threads (default 6). End of input ends the program.
 */
public final class Runner {
    private final Map<String, Scenario> scenarios = new LinkedHashMap<>();
    private final PrintStream results;

    private Runner(PrintStream results) {
        this.results = results;
        SendScenarios.register(scenarios);
        QueryScenarios.register(scenarios);
        ConsumeScenarios.register(scenarios);
        PullScenarios.register(scenarios);
        GroupScenarios.register(scenarios);
        FilterScenarios.register(scenarios);
        RetryScenarios.register(scenarios);
        OrderScenarios.register(scenarios);
        OffsetScenarios.register(scenarios);
        NotifyScenarios.register(scenarios);
        RestartScenarios.register(scenarios);
        TransactionScenarios.register(scenarios);
        LightScenarios.register(scenarios);
        Commands.register(scenarios);
        for (String newer : new String[] {"wire.PopScenarios", "wire.TimerScenarios"}) {
            try {
                Class.forName(newer).getDeclaredMethod("register", Map.class).invoke(null, scenarios);
            } catch (ReflectiveOperationException older) {
                // the client has no POP and no timer messages
            }
        }
    }

    public static void main(String[] args) throws Exception {
        PrintStream results = System.out;
        System.setOut(System.err); // what the client library prints is not a result
        Runner runner = new Runner(results);
        Hurry.start();
        ExecutorService pool = Executors.newFixedThreadPool(args.length > 0 ? Integer.parseInt(args[0]) : 6);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t");
            if (fields.length < 2) {
                continue;
            }
            Map<String, String> params = new HashMap<>();
            for (int i = 2; i < fields.length; i++) {
                int equals = fields[i].indexOf('=');
                params.put(fields[i].substring(0, equals),
                    URLDecoder.decode(fields[i].substring(equals + 1), StandardCharsets.UTF_8));
            }
            pool.execute(() -> runner.job(fields[0], fields[1], params));
        }
        pool.shutdown();
        boolean ended = pool.awaitTermination(60, TimeUnit.SECONDS);
        System.exit(ended ? 0 : 1);
    }

    private void job(String id, String name, Map<String, String> params) {
        long start = System.nanoTime();
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("id", id);
        result.put("scenario", name);
        Ctx ctx = new Ctx(name, params);
        try {
            Scenario scenario = scenarios.get(name);
            if (scenario == null) {
                throw new IllegalArgumentException("no scenario is called " + name);
            }
            try {
                scenario.run(ctx);
            } finally {
                ctx.close();
            }
            result.put("ok", true);
        } catch (Failure failure) {
            result.put("ok", false);
            result.put("error", failure.getMessage());
        } catch (Throwable error) {
            StringWriter trace = new StringWriter();
            error.printStackTrace(new PrintWriter(trace));
            result.put("ok", false);
            result.put("error", error.toString());
            result.put("trace", trace.toString());
        }
        result.put("millis", TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start));
        result.put("data", ctx.data());
        String line = Json.write(result);
        synchronized (results) {
            results.println(line);
            results.flush();
        }
    }
}
