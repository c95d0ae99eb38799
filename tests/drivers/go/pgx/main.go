// pgx: its cache of prepared statements, batches, pipelines, pool, COPY, LISTEN, cancel by context.
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	. "drivercheck/checks"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var ctx = context.Background()

func connect(dsn string) *pgx.Conn {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		panic(err)
	}
	return conn
}

func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return fmt.Sprint(err)
}

func value[T any](q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, sql string, args ...any) (got T, err error) {
	err = q.QueryRow(ctx, sql, args...).Scan(&got)
	return got, err
}

func expect[T any](q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, want T, sql string, args ...any) error {
	got, err := value[T](q, sql, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return Equal(sql, got, want)
}

func execAll(q interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
}, list ...string) error {
	for _, sql := range list {
		if _, err := q.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func modes() error {
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		one, two := connect("default_query_exec_mode="+mode), connect("default_query_exec_mode="+mode)
		for n := range 20 {
			if err := errors.Join(
				expect(one, n+1, "select $1::int + 1", n),
				expect(two, n+1, "select $1::int + 1", n),
				expect(two, fmt.Sprint(n, "ä"), "select $1::text", fmt.Sprint(n, "ä")),
			); err != nil {
				return fmt.Errorf("%s: %w", mode, err)
			}
		}
		one.Close(ctx)
		two.Close(ctx)
	}
	return nil
}

func types() error {
	conn := connect("")
	defer conn.Close(ctx)
	var n int
	var s string
	var a []int
	var b []byte
	var t time.Time
	var j map[string]any
	var null *string
	now := time.Unix(1_700_000_000, 0)
	err := conn.QueryRow(ctx, "select $1::int, $2::text, $3::int[], $4::bytea, $5::timestamptz, $6::jsonb, null::text",
		7, "ä€😀", []int{1, 2}, []byte{0, 255}, now, map[string]any{"a": 1}).Scan(&n, &s, &a, &b, &t, &j, &null)
	if err != nil {
		return err
	}
	return errors.Join(Equal("row", fmt.Sprint(n, s, a, b, j, null), fmt.Sprint(7, "ä€😀", []int{1, 2}, []byte{0, 255}, map[string]any{"a": 1}, null)),
		Equal("time", t.Unix(), now.Unix()))
}

func batches() error {
	conn := connect("")
	defer conn.Close(ctx)
	if err := execAll(conn, "create table batched (n int primary key)"); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	for n := range 100 {
		batch.Queue("insert into batched values ($1)", n)
	}
	batch.Queue("select count(*) from batched").QueryRow(func(row pgx.Row) error {
		var c int
		if err := row.Scan(&c); err != nil {
			return err
		}
		return Equal("rows seen in the batch", c, 100)
	})
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	batch = &pgx.Batch{}
	batch.Queue("insert into batched values (1000)")
	batch.Queue("insert into batched values (1)")
	err := conn.SendBatch(ctx, batch).Close()
	return errors.Join(Equal("error of a batch", code(err), "23505"), expect(conn, 100, "select count(*) from batched"))
}

func pipelines() error {
	conn := connect("")
	defer conn.Close(ctx)
	pipeline := conn.PgConn().StartPipeline(ctx)
	pipeline.SendPrepare("p", "select $1::int", nil)
	if err := pipeline.Sync(); err != nil {
		return err
	}
	for n := range 10 {
		pipeline.SendQueryPrepared("p", [][]byte{[]byte(fmt.Sprint(n))}, nil, nil)
	}
	pipeline.SendQueryParams("select 1/0", nil, nil, nil, nil)
	pipeline.SendQueryParams("select 'skipped'", nil, nil, nil, nil)
	if err := pipeline.Sync(); err != nil {
		return err
	}
	pipeline.SendQueryParams("select 'last'", nil, nil, nil, nil)
	if err := pipeline.Sync(); err != nil {
		return err
	}
	rows, failed, syncs, last := 0, "", 0, ""
	for {
		got, err := pipeline.GetResults()
		if err != nil {
			failed = code(err)
			continue
		}
		if got == nil {
			break
		}
		switch got := got.(type) {
		case *pgconn.ResultReader:
			result := got.Read()
			if result.Err != nil {
				failed = code(result.Err)
				continue
			}
			last = string(result.Rows[0][0])
			rows++
		case *pgconn.PipelineSync:
			syncs++
		}
	}
	return errors.Join(Equal("pipeline", fmt.Sprintln(rows, failed, syncs, last), "11 22012 3 last\n"), pipeline.Close(), expect(conn, 1, "select 1"))
}

func transactions() error {
	one, two := connect(""), connect("")
	defer one.Close(ctx)
	defer two.Close(ctx)
	if err := execAll(one, "create table accounts (n int primary key)"); err != nil {
		return err
	}
	tx, err := one.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadWrite})
	if err != nil {
		return err
	}
	if err := errors.Join(execAll(tx, "insert into accounts values (1)"), expect(two, 0, "select count(*) from accounts"),
		expect(tx, "serializable", "show transaction_isolation")); err != nil {
		return err
	}
	inner, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	_, err = inner.Exec(ctx, "insert into accounts values (1)")
	if err := errors.Join(Equal("duplicate", code(err), "23505"), inner.Rollback(ctx), tx.Commit(ctx)); err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, one, func(tx pgx.Tx) error {
		if err := execAll(tx, "insert into accounts values (2)"); err != nil {
			return err
		}
		return errors.New("no")
	})
	return errors.Join(Equal("error of the function", err, "no"), expect(two, 1, "select count(*) from accounts"))
}

func copies() error {
	conn := connect("")
	defer conn.Close(ctx)
	if err := execAll(conn, "create table copied (n int, s text)"); err != nil {
		return err
	}
	rows := pgx.CopyFromSlice(20000, func(n int) ([]any, error) { return []any{n, fmt.Sprint("row ", n)}, nil })
	count, err := conn.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"n", "s"}, rows)
	if err != nil {
		return err
	}
	broken := pgx.CopyFromSlice(10, func(n int) ([]any, error) {
		if n == 5 {
			return nil, errors.New("broken source")
		}
		return []any{n, "x"}, nil
	})
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"n", "s"}, broken)
	if err == nil {
		return errors.New("a broken source was not noticed")
	}
	return errors.Join(Equal("rows copied", count, 20000), expect(conn, 20000, "select count(*) from copied"))
}

func listening() error {
	one, two := connect(""), connect("")
	defer one.Close(ctx)
	defer two.Close(ctx)
	if err := execAll(one, "listen talk"); err != nil {
		return err
	}
	if err := errors.Join(execAll(two, "notify talk, 'from two'"), execAll(one, "notify talk, 'from one'")); err != nil {
		return err
	}
	limited, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	heard := ""
	for range 2 {
		got, err := one.WaitForNotification(limited)
		if err != nil {
			return err
		}
		heard += fmt.Sprint(got.Payload, " own=", got.PID == one.PgConn().PID(), ";")
	}
	return Equal("heard", heard, "from two own=false;from one own=true;")
}

func cancels() error {
	conn := connect("")
	limited, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	_, err := conn.Exec(limited, "select pg_sleep(20)")
	if !errors.Is(err, context.DeadlineExceeded) && code(err) != "57014" {
		return fmt.Errorf("cancelled by context: %v", err)
	}
	conn.Close(ctx)
	conn = connect("")
	defer conn.Close(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, "select pg_sleep(20)")
		done <- err
	}()
	time.Sleep(300 * time.Millisecond)
	if err := conn.PgConn().CancelRequest(ctx); err != nil {
		return err
	}
	return errors.Join(Equal("cancelled by request", code(<-done), "57014"), expect(conn, 1, "select 1"))
}

func pool() error {
	pool, err := pgxpool.New(ctx, "pool_max_conns=5")
	if err != nil {
		return err
	}
	defer pool.Close()
	return Parallel(20, func(number int) error {
		for n := range 25 {
			marker := fmt.Sprint(number, "-", n)
			if err := expect(pool, marker, "select $1::text", marker); err != nil {
				return err
			}
		}
		return pool.Ping(ctx)
	})
}

func settings() error {
	one, two := connect("timezone=Asia/Tokyo"), connect("options='-c app.tenant=two'")
	defer one.Close(ctx)
	defer two.Close(ctx)
	if err := execAll(one, "set app.tenant = 'one'"); err != nil {
		return err
	}
	for range 5 {
		if err := errors.Join(
			expect(one, "one", "select current_setting('app.tenant')"), expect(two, "two", "select current_setting('app.tenant')"),
			expect(one, "Asia/Tokyo", "select current_setting($1)", "TimeZone"),
		); err != nil {
			return err
		}
	}
	return nil
}

func changing() error {
	one, two := connect(""), connect("")
	defer one.Close(ctx)
	defer two.Close(ctx)
	if err := execAll(one, "create table changing (a int)", "insert into changing values (1)"); err != nil {
		return err
	}
	if err := expect(two, 1, "select * from changing"); err != nil {
		return err
	}
	if err := execAll(one, "alter table changing alter a type text"); err != nil {
		return err
	}
	// pgx forgets a statement whose plan has changed when it hears of it; the next call is good.
	_, _ = value[string](two, "select * from changing")
	return expect(two, "1", "select * from changing")
}

func migrators() error {
	// As golang-migrate, goose and tern do: a lock of the session beside the transactions.
	return Parallel(4, func(number int) error {
		conn := connect("")
		defer conn.Close(ctx)
		if err := execAll(conn, "select pg_advisory_lock(4242)"); err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			return execAll(tx, "create table if not exists migrated (n int)", "insert into migrated select count(*) from migrated")
		})
		if number == 3 {
			return err // closed without an unlock
		}
		return errors.Join(err, expect(conn, true, "select pg_advisory_unlock(4242)"))
	})
}

func main() {
	Check("every way to run a query, two connections with one text", modes)
	Check("values of many types", types)
	Check("a batch is one transaction", batches)
	Check("a pipeline with several syncs and an error", pipelines)
	Check("transactions, savepoints, rollback", transactions)
	Check("COPY in, also from a broken source", copies)
	Check("notifications, also its own", listening)
	Check("cancel by context and by request", cancels)
	Check("a pool", pool)
	Check("settings of two connections", settings)
	Check("a table that changes under a cached statement", changing)
	Check("migrators that lock each other out", migrators)
	Run()
}
