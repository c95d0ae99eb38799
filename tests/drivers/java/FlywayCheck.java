import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.FlywayException;

/** Flyway: migrations in transactions and outside, several migrators at once, another schema. */
public final class FlywayCheck {
    private static Path folder;

    public static void main(String[] args) throws Exception {
        folder = Files.createTempDirectory("flyway");
        write("V1__tables.sql", "create table item (id serial primary key, name text not null); insert into item (name) select 'i' || g from generate_series(1, 100) g;");
        write("V2__function.sql", "create function twice(n int) returns int language sql as $$ select n * 2; $$;\ndo $$ begin perform twice(1); end $$;");
        write("V3__concurrently.sql", "create index concurrently item_name on item (name);");
        write("V4__copy.sql", "copy item (name) from stdin;\none\ntwo\n\\.\n");
        write("R__view.sql", "create or replace view names as select name from item;");
        Check.check("migrate, validate, info, clean, migrate again", FlywayCheck::all);
        Check.check("migrate with the defaults", FlywayCheck::usual);
        Check.check("several migrators at once: each step is done once", FlywayCheck::several);
        Check.check("a schema of its own: set_config('search_path', ...) with its value in Bind", FlywayCheck::schema);
        Check.check("a migration that fails leaves nothing, and no lock", FlywayCheck::failing);
        Check.done();
    }

    private static void write(String name, String text) throws Exception {
        Files.writeString(folder.resolve(name), text);
    }

    // Flyway's default lock of a transaction waits for itself when an index is made concurrently, on any server.
    private static Flyway flyway(String schema) {
        return Flyway.configure().dataSource(Check.URL, Check.USER, Check.PASSWORD).locations("filesystem:" + folder)
                .schemas(schema).cleanDisabled(false).configuration(java.util.Map.of("flyway.postgresql.transactional.lock", "false")).load();
    }

    private static void all() throws Exception {
        Flyway flyway = flyway("public");
        Check.equal(flyway.migrate().migrationsExecuted, 5);
        Check.equal(flyway.migrate().migrationsExecuted, 0);
        flyway.validate();
        Check.equal(flyway.info().current().getVersion(), "4");
        try (Connection c = Check.connect("")) { Check.equal(Check.value(c, "select count(*) from names"), 102); }
        flyway.clean();
        Check.equal(flyway.migrate().migrationsExecuted, 5);
    }

    // With the lock it takes by default: one of a transaction, on a second connection.
    private static void usual() throws Exception {
        Flyway flyway = Flyway.configure().dataSource(Check.URL, Check.USER, Check.PASSWORD).locations("filesystem:" + folder)
                .schemas("usual").target("2").cleanDisabled(false).load();
        flyway.migrate();
        try (Connection c = Check.connect("")) { Check.equal(Check.value(c, "select count(*) from usual.item"), 100); }
        flyway.clean();
    }

    private static void several() throws Exception {
        flyway("public").clean();
        Check.parallel(3, number -> flyway("public").migrate());
        try (Connection c = Check.connect("")) {
            Check.equal(Check.value(c, "select count(*) from names"), 102);
            Check.equal(Check.value(c, "select count(*) from pg_locks where locktype = 'advisory'"), 0);
        }
    }

    private static void schema() throws Exception {
        flyway("other").migrate();
        try (Connection c = Check.connect("")) {
            Check.equal(Check.value(c, "select count(*) from other.item"), 102);
            Check.equal(Check.value(c, "show search_path"), "\"$user\", public");
        }
        flyway("other").clean();
    }

    private static void failing() throws Exception {
        write("V5__bad.sql", "create table never (n int); select 1/0;");
        try {
            flyway("public").migrate();
            throw new AssertionError("no error");
        } catch (FlywayException expected) {
            if (!String.valueOf(expected.getMessage()).contains("22012")) throw expected;
        }
        try (Connection c = Check.connect("")) {
            Check.equal(Check.value(c, "select to_regclass('never') is null"), "t");
            Check.equal(Check.value(c, "select count(*) from pg_locks where locktype = 'advisory'"), 0);
        }
        Files.delete(folder.resolve("V5__bad.sql"));
    }
}
