import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** What every program here does: runs its checks in order and says which passed. */
final class Check {
    interface Body { void run() throws Exception; }
    interface Numbered { void run(int number) throws Exception; }

    static final String URL = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
    static final String USER = System.getenv("PGUSER");
    static final String PASSWORD = System.getenv("PGPASSWORD");

    private Check() {}

    static void check(String claim, Body body) {
        try {
            body.run();
        } catch (Throwable error) {
            System.err.println("failed: " + claim);
            error.printStackTrace();
            System.exit(1);
        }
        System.out.println("passed: " + claim);
    }

    static void done() {
        System.out.println("all passed");
        System.exit(0);
    }

    static void equal(Object got, Object want) {
        if (!Objects.equals(String.valueOf(got), String.valueOf(want))) throw new AssertionError("got " + got + " instead of " + want);
    }

    static Connection connect(String options) throws SQLException {
        return DriverManager.getConnection(URL + "?" + options, USER, PASSWORD);
    }

    static void execute(Connection connection, String... list) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String sql : list) statement.execute(sql);
        }
    }

    static String value(Connection connection, String sql, Object... args) throws SQLException {
        try (var statement = connection.prepareStatement(sql)) {
            for (int n = 0; n < args.length; n++) statement.setObject(n + 1, args[n]);
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return rows.getString(1);
            }
        }
    }

    static String failure(Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            return error.getSQLState();
        }
        return "no error";
    }

    static void parallel(int count, Numbered work) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        List<Future<Void>> running = new ArrayList<>();
        for (int n = 0; n < count; n++) {
            int number = n;
            running.add(threads.submit((Callable<Void>) () -> { work.run(number); return null; }));
        }
        for (Future<Void> one : running) one.get();
        threads.shutdown();
    }
}
