// lib/pq with database/sql: prepared statements, transactions, COPY, LISTEN, cancel by context.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	. "drivercheck/checks"

	"github.com/lib/pq"
)

var ctx = context.Background()

func open(dsn string) *sql.DB {
	db, err := sql.Open("postgres", "sslmode=disable "+dsn)
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(5)
	return db
}

func code(err error) string {
	var failed *pq.Error
	if errors.As(err, &failed) {
		return string(failed.Code)
	}
	return fmt.Sprint(err)
}

func expect(q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, want any, text string, args ...any) error {
	var got string
	if err := q.QueryRowContext(ctx, text, args...).Scan(&got); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return Equal(text, got, want)
}

func execAll(q interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, list ...string) error {
	for _, text := range list {
		if _, err := q.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return nil
}

func statements() error {
	for _, dsn := range []string{"", "binary_parameters=yes"} {
		db := open(dsn)
		prepared, err := db.Prepare("select $1::int + 1")
		if err != nil {
			return err
		}
		err = Parallel(8, func(number int) error {
			for n := range 20 {
				var got int
				if err := prepared.QueryRow(n).Scan(&got); err != nil {
					return err
				}
				marker := fmt.Sprint(number, "-", n)
				if err := errors.Join(Equal("sum", got, n+1), expect(db, marker, "select $1::text", marker)); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(err, prepared.Close(), db.Close()); err != nil {
			return err
		}
	}
	return nil
}

func transactions() error {
	db := open("")
	defer db.Close()
	if err := execAll(db, "create table accounts (n int primary key)"); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	if err != nil {
		return err
	}
	if err := errors.Join(execAll(tx, "insert into accounts values (1)", "savepoint a"), expect(db, "0", "select count(*) from accounts"),
		expect(tx, "serializable", "show transaction_isolation")); err != nil {
		return err
	}
	_, err = tx.Exec("insert into accounts values ($1)", 1)
	if err := errors.Join(Equal("duplicate", code(err), "23505"), execAll(tx, "rollback to a"), tx.Commit()); err != nil {
		return err
	}
	readonly, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	_, err = readonly.Exec("insert into accounts values (2)")
	return errors.Join(Equal("read-only", code(err), "25006"), readonly.Rollback(), expect(db, "1", "select count(*) from accounts"))
}

func copies() error {
	db := open("")
	defer db.Close()
	if err := execAll(db, "create table copied (n int, s text)"); err != nil {
		return err
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	stmt, err := tx.Prepare(pq.CopyIn("copied", "n", "s"))
	if err != nil {
		return err
	}
	for n := range 20000 {
		if _, err := stmt.Exec(n, fmt.Sprint("row ", n)); err != nil {
			return err
		}
	}
	if _, err := stmt.Exec(); err != nil {
		return err
	}
	return errors.Join(stmt.Close(), tx.Commit(), expect(db, "20000", "select count(*) from copied"))
}

func listening() error {
	db := open("")
	defer db.Close()
	listener := pq.NewListener("sslmode=disable", time.Second, time.Minute, nil)
	defer listener.Close()
	if err := listener.Listen("talk"); err != nil {
		return err
	}
	if err := errors.Join(execAll(db, "notify talk, 'hello'"), listener.Ping()); err != nil {
		return err
	}
	select {
	case got := <-listener.Notify:
		if err := Equal("payload", got.Extra, "hello"); err != nil {
			return err
		}
	case <-time.After(10 * time.Second):
		return errors.New("nothing heard")
	}
	return listener.Unlisten("talk")
}

func cancels() error {
	db := open("")
	defer db.Close()
	limited, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	_, err := db.ExecContext(limited, "select pg_sleep(20)")
	if err == nil {
		return errors.New("not cancelled")
	}
	return expect(db, "1", "select 1")
}

func settings() error {
	one, two := open("timezone=Asia/Tokyo"), open("search_path=pg_catalog")
	defer one.Close()
	defer two.Close()
	return Parallel(6, func(int) error {
		for range 10 {
			if err := errors.Join(expect(one, "Asia/Tokyo", "show timezone"), expect(two, "pg_catalog", "show search_path"),
				expect(one, "\"$user\", public", "select current_setting($1)", "search_path")); err != nil {
				return err
			}
		}
		return nil
	})
}

func several() error {
	db := open("")
	defer db.Close()
	rows, err := db.Query("select 1; select 2; select 3")
	if err != nil {
		return err
	}
	defer rows.Close()
	sum := 0
	for more := true; more; more = rows.NextResultSet() {
		for rows.Next() {
			var n int
			if err := rows.Scan(&n); err != nil {
				return err
			}
			sum += n
		}
	}
	return Equal("sum over result sets", sum, 6)
}

func main() {
	Check("prepared statements of a pool, text and binary parameters", statements)
	Check("transactions, savepoints, read-only", transactions)
	Check("COPY in", copies)
	Check("notifications by the listener", listening)
	Check("cancel by context", cancels)
	Check("settings from the connection string", settings)
	Check("several statements in one query", several)
	Run()
}
