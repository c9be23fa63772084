// Java: glibc's resolver, and its own one in Java (JNDI). It cannot open descriptor 3: `java … <&3 >&3`.
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import javax.naming.directory.InitialDirContext;

class Plugin {
    interface Act { void run() throws Exception; }

    static void ask(String name) throws Exception {
        var settings = new Hashtable<>(Map.of("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory"));
        new InitialDirContext(settings).getAttributes(name, new String[] {"A"}).get("A").get();
    }

    static Map<String, Act> local() throws Exception {
        var acts = new LinkedHashMap<String, Act>();
        var own = new String(Runtime.getRuntime().exec("uname -n").getInputStream().readAllBytes()).trim();
        acts.put("threads", () -> {
            var pool = Executors.newFixedThreadPool(4);
            if (pool.submit(() -> 4).get() != 4) throw new Exception("wrong");
            pool.shutdown();
        });
        acts.put("child", () -> {
            if (new ProcessBuilder("/bin/true").start().waitFor() != 0) throw new Exception("wrong");
        });
        acts.put("file", () -> Files.delete(Files.writeString(Files.createTempFile("t", null), "x")));
        acts.put("loopback", () -> {
            var server = com.sun.net.httpserver.HttpServer.create(new InetSocketAddress("localhost", 0), 0);
            server.createContext("/", exchange -> { exchange.sendResponseHeaders(200, -1); exchange.close(); });
            server.start();
            var uri = URI.create("http://localhost:" + server.getAddress().getPort() + "/");
            var answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
            server.stop(0);
            if (answer.statusCode() != 200) throw new Exception("" + answer.statusCode());
        });
        acts.put("names", () -> { InetAddress.getByName("localhost"); InetAddress.getByName(own); InetAddress.getLocalHost(); });
        acts.put("resolver", () -> { ask("localhost"); ask(own); });
        return acts;
    }

    static Map<String, Act> remote(String host) {
        var acts = new LinkedHashMap<String, Act>();
        acts.put("fetch", () -> {
            var page = (HttpURLConnection) new URL("https://" + host + ":" + System.getenv("PORT") + "/").openConnection();
            if (page.getResponseCode() != 200) throw new Exception("" + page.getResponseCode());
        });
        acts.put("resolver", () -> ask(host));
        return acts;
    }

    public static void main(String[] words) throws Exception {
        var call = new BufferedReader(new InputStreamReader(System.in)).readLine();
        var host = call.contains("\"method\":\"denied\"") ? "other.test" : "good.test";
        var result = new StringBuilder("{\"version\":\"" + Runtime.version() + "\"");
        for (var act : (call.contains("\"method\":\"local\"") ? local() : remote(host)).entrySet()) {
            var end = "ok";
            try { act.getValue().run(); } catch (Exception e) { end = e.toString().replaceAll("[\"\\\\\n]", " "); }
            result.append(",\"" + act.getKey() + "\":\"" + end + "\"");
        }
        System.out.print("{\"type\":\"result\",\"result\":" + result + "}}\n");
        System.out.flush();
        System.exit(0);
    }
}
