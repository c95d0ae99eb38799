import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Savepoint;
import java.sql.Statement;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Timer;
import java.util.TimerTask;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/** pgjdbc with its defaults, in its query modes, and HikariCP over it. */
public final class PgjdbcCheck {
    public static void main(String[] args) {
        Check.check("statements become named after five executions, on two connections at once", PgjdbcCheck::thresholds);
        Check.check("every query mode", PgjdbcCheck::modes);
        Check.check("values of many types, text and binary", PgjdbcCheck::types);
        Check.check("transactions, savepoints, isolation, read-only", PgjdbcCheck::transactions);
        Check.check("batches, also rewritten ones, with an error, and generated keys", PgjdbcCheck::batches);
        Check.check("rows fetched in parts by a portal", PgjdbcCheck::fetching);
        Check.check("COPY in both directions", PgjdbcCheck::copies);
        Check.check("notifications, also its own", PgjdbcCheck::listening);
        Check.check("cancel and query time limit", PgjdbcCheck::cancels);
        Check.check("a transaction goes on after a cached plan became wrong (autosave)", PgjdbcCheck::changing);
        Check.check("meta data and several statements in one", PgjdbcCheck::metadata);
        Check.check("HikariCP: own answers, settings reset on return", PgjdbcCheck::hikari);
        Check.check("session advisory locks", PgjdbcCheck::locks);
        Check.done();
    }

    static void thresholds() throws Exception {
        try (Connection one = Check.connect(""); Connection two = Check.connect("")) {
            try (PreparedStatement a = one.prepareStatement("select ? + 1"); PreparedStatement b = two.prepareStatement("select ? + 2")) {
                for (int n = 0; n < 20; n++) {
                    a.setInt(1, n);
                    b.setInt(1, n);
                    Check.equal(first(a), n + 1);
                    Check.equal(first(b), n + 2);
                    if (n == 9) { one.setAutoCommit(false); two.setAutoCommit(false); }
                    if (n > 9 && n % 3 == 0) { one.commit(); two.rollback(); }
                }
            }
        }
    }

    private static String first(PreparedStatement statement) throws Exception {
        try (ResultSet rows = statement.executeQuery()) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void modes() throws Exception {
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            try (Connection one = Check.connect("preferQueryMode=" + mode + "&prepareThreshold=1"); Connection two = Check.connect("preferQueryMode=" + mode)) {
                for (int n = 0; n < 12; n++) {
                    Check.equal(Check.value(one, "select ?::int * 2", n), n * 2);
                    Check.equal(Check.value(two, "select ?::text", "ä" + n), "ä" + n);
                    Check.equal(Check.value(one, "select 'plain'"), "plain");
                }
                one.setAutoCommit(false);
                Check.equal(Check.failure(() -> Check.execute(one, "select 1/0")), "22012");
                one.rollback();
                Check.equal(Check.value(one, "select 1"), 1);
            }
        }
    }

    static void types() throws Exception {
        for (String options : new String[] {"", "prepareThreshold=-1", "binaryTransfer=false"}) {
            try (Connection c = Check.connect(options);
                    PreparedStatement s = c.prepareStatement("select ?::int8, ?::text, ?::numeric, ?::bytea, ?::timestamptz, ?::int[], ?::float8, null")) {
                Array array = c.createArrayOf("int4", new Object[] {1, null, 3});
                for (int n = 0; n < 7; n++) {
                    s.setLong(1, 1L << 40);
                    s.setString(2, "ä€😀");
                    s.setBigDecimal(3, new java.math.BigDecimal("1.50"));
                    s.setBytes(4, new byte[] {0, -1});
                    s.setObject(5, OffsetDateTime.of(2026, 11, 21, 1, 2, 3, 0, ZoneOffset.UTC));
                    s.setArray(6, array);
                    s.setDouble(7, 0.1);
                    try (ResultSet r = s.executeQuery()) {
                        r.next();
                        Check.equal(r.getLong(1) + r.getString(2) + r.getBigDecimal(3) + r.getBytes(4)[1], (1L << 40) + "ä€😀1.50-1");
                        Check.equal(r.getObject(5, OffsetDateTime.class).toInstant(), "2026-11-21T01:02:03Z");
                        Check.equal(java.util.Arrays.toString((Object[]) r.getArray(6).getArray()), "[1, null, 3]");
                        Check.equal(r.getDouble(7), 0.1);
                    }
                }
            }
        }
    }

    static void transactions() throws Exception {
        try (Connection one = Check.connect(""); Connection two = Check.connect("readOnlyMode=always")) {
            Check.execute(one, "create table accounts (n int primary key)");
            one.setAutoCommit(false);
            one.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            Check.execute(one, "insert into accounts values (1)");
            Check.equal(Check.value(two, "select count(*) from accounts"), 0);
            Check.equal(Check.value(one, "show transaction isolation level"), "serializable");
            Savepoint savepoint = one.setSavepoint();
            Check.equal(Check.failure(() -> Check.execute(one, "insert into accounts values (1)")), "23505");
            Check.equal(Check.failure(() -> Check.execute(one, "select 1")), "25P02");
            one.rollback(savepoint);
            one.commit();
            Check.equal(one.getTransactionIsolation(), Connection.TRANSACTION_SERIALIZABLE);
            one.commit();
            Check.equal(two.getTransactionIsolation(), Connection.TRANSACTION_READ_COMMITTED);
            two.setReadOnly(true);
            Check.equal(Check.failure(() -> Check.execute(two, "insert into accounts values (2)")), "25006");
            two.setReadOnly(false);
            Check.execute(two, "insert into accounts values (2)");
            one.setReadOnly(true);
            Check.equal(Check.failure(() -> Check.execute(one, "insert into accounts values (3)")), "25006");
            one.rollback();
            Check.equal(Check.value(one, "select count(*) from accounts"), 2);
            one.rollback();
        }
    }

    static void batches() throws Exception {
        for (String options : new String[] {"", "reWriteBatchedInserts=true"}) {
            try (Connection c = Check.connect(options)) {
                Check.execute(c, "drop table if exists batched", "create table batched (id serial primary key, n int unique)");
                c.setAutoCommit(false);
                try (PreparedStatement s = c.prepareStatement("insert into batched (n) values (?)", Statement.RETURN_GENERATED_KEYS)) {
                    for (int n = 0; n < 1000; n++) { s.setInt(1, n); s.addBatch(); }
                    s.executeBatch();
                    int keys = 0;
                    try (ResultSet made = s.getGeneratedKeys()) { while (made.next()) keys++; }
                    Check.equal(keys, 1000);
                }
                c.commit();
                c.setAutoCommit(true);
                try (PreparedStatement s = c.prepareStatement("insert into batched (n) values (?)")) {
                    for (int n = 999; n < 1300; n++) { s.setInt(1, n == 1200 ? 5 : n + 1); s.addBatch(); }
                    s.executeBatch();
                    throw new AssertionError("no error");
                } catch (BatchUpdateException expected) {
                    Check.equal(expected.getSQLState(), "23505");
                }
                String left = Check.value(c, "select count(*) from batched");
                if (Integer.parseInt(left) < 1000 || Integer.parseInt(left) >= 1300) throw new AssertionError(left);
            }
        }
    }

    static void fetching() throws Exception {
        try (Connection c = Check.connect("defaultRowFetchSize=50"); Connection other = Check.connect("")) {
            c.setAutoCommit(false);
            for (int round = 0; round < 7; round++) {
                try (PreparedStatement s = c.prepareStatement("select g from generate_series(1, ?) g")) {
                    s.setInt(1, 1000);
                    long sum = 0;
                    try (ResultSet rows = s.executeQuery()) {
                        while (rows.next()) {
                            sum += rows.getInt(1);
                            if (rows.getInt(1) % 250 == 0) Check.equal(Check.value(other, "select 'other'"), "other");
                        }
                    }
                    Check.equal(sum, 500500);
                }
                try (PreparedStatement s = c.prepareStatement("select g from generate_series(1, 1000) g"); ResultSet rows = s.executeQuery()) {
                    rows.next();
                }
            }
            c.commit();
        }
    }

    static void copies() throws Exception {
        try (Connection c = Check.connect("")) {
            Check.execute(c, "create table copied (n int, s text)");
            CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder text = new StringBuilder();
            for (int n = 0; n < 20000; n++) text.append(n).append("\trow ").append(n).append('\n');
            Check.equal(copy.copyIn("copy copied from stdin", new StringReader(text.toString())), 20000);
            StringWriter out = new StringWriter();
            copy.copyOut("copy (select * from copied order by n) to stdout", out);
            Check.equal(out.toString().equals(text.toString()), true);
            Check.equal(Check.failure(() -> copy.copyIn("copy copied from stdin", new StringReader("x\ty\n"))), "22P02");
            Check.equal(Check.value(c, "select count(*) from copied"), 20000);
        }
    }

    static void listening() throws Exception {
        try (Connection one = Check.connect(""); Connection two = Check.connect("")) {
            Check.execute(one, "listen talk");
            Check.execute(two, "notify talk, 'from two'");
            Check.execute(one, "notify talk, 'from one'");
            PGConnection own = one.unwrap(PGConnection.class);
            StringBuilder heard = new StringBuilder();
            long end = System.nanoTime() + 10_000_000_000L;
            for (int count = 0; count < 2 && System.nanoTime() < end; ) {
                for (var note : own.getNotifications(1000)) {
                    heard.append(note.getParameter()).append(note.getPID() == own.getBackendPID()).append(' ');
                    count++;
                }
            }
            Check.equal(heard, "from twofalse from onetrue ");
            Check.execute(one, "unlisten *");
        }
    }

    static void cancels() throws Exception {
        try (Connection c = Check.connect(""); Statement s = c.createStatement()) {
            Timer timer = new Timer(true);
            timer.schedule(new TimerTask() { @Override public void run() { try { s.cancel(); } catch (Exception ignored) { } } }, 300);
            Check.equal(Check.failure(() -> s.execute("select pg_sleep(20)")), "57014");
            s.setQueryTimeout(1);
            Check.equal(Check.failure(() -> s.execute("select pg_sleep(20)")), "57014");
            Check.equal(Check.value(c, "select 1"), 1);
        }
    }

    static void changing() throws Exception {
        try (Connection one = Check.connect("autosave=conservative&prepareThreshold=1"); Connection two = Check.connect("")) {
            Check.execute(two, "create table changing (a int)", "insert into changing values (1)");
            one.setAutoCommit(false);
            for (int n = 0; n < 6; n++) Check.equal(Check.value(one, "select * from changing"), 1);
            one.commit();
            Check.execute(two, "alter table changing alter a type text using 'x' || a");
            Check.equal(Check.value(one, "select 'before'"), "before");
            Check.equal(Check.value(one, "select * from changing"), "x1");
            one.commit();
        }
    }

    static void metadata() throws Exception {
        try (Connection c = Check.connect("")) {
            Check.execute(c, "create table described (id int primary key, name varchar(20) not null); create index on described (name)");
            try (ResultSet r = c.getMetaData().getColumns(null, "public", "described", "%")) {
                r.next();
                Check.equal(r.getString("COLUMN_NAME"), "id");
            }
            try (ResultSet r = c.getMetaData().getPrimaryKeys(null, "public", "described")) {
                r.next();
                Check.equal(r.getString("COLUMN_NAME"), "id");
            }
            try (Statement s = c.createStatement()) {
                s.execute("insert into described values (1, 'a'); update described set name = 'b'; select name from described");
                Check.equal(s.getUpdateCount(), 1);
                s.getMoreResults();
                s.getMoreResults();
                s.getResultSet().next();
                Check.equal(s.getResultSet().getString(1), "b");
            }
            Check.equal(c.isValid(5), true);
        }
    }

    static void hikari() throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(Check.URL);
        config.setUsername(Check.USER);
        config.setPassword(Check.PASSWORD);
        config.setMaximumPoolSize(5);
        config.setTransactionIsolation("TRANSACTION_REPEATABLE_READ");
        config.setConnectionInitSql("set app.made_by = 'hikari'");
        try (HikariDataSource pool = new HikariDataSource(config)) {
            Check.parallel(12, number -> {
                for (int n = 0; n < 25; n++) {
                    try (Connection c = pool.getConnection()) {
                        String marker = number + "-" + n;
                        if (n % 5 == 0) {
                            c.setAutoCommit(false);
                            c.setReadOnly(true);
                            c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                            Check.equal(Check.value(c, "show transaction_isolation"), "serializable");
                            if (n % 10 == 0) c.commit();
                        } else {
                            Check.equal(Check.value(c, "show transaction_isolation"), "repeatable read");
                            Check.equal(Check.value(c, "show transaction_read_only"), "off");
                        }
                        Check.equal(Check.value(c, "select ?::text", marker), marker);
                        Check.equal(Check.value(c, "select current_setting('app.made_by')"), "hikari");
                    }
                }
            });
        }
    }

    static void locks() throws Exception {
        try (Connection one = Check.connect(""); Connection two = Check.connect("")) {
            Check.execute(one, "select pg_advisory_lock(31)");
            Check.equal(Check.value(two, "select pg_try_advisory_lock(31)"), "f");
            Check.equal(Check.value(one, "select pg_advisory_unlock(31)"), "t");
            Check.equal(Check.value(two, "select pg_try_advisory_lock(31)"), "t");
            two.close();
            Check.execute(one, "set lock_timeout = '10s'", "select pg_advisory_lock(31)");
        }
    }
}
