/* libpq: pipeline mode, prepared statements, single-row mode, chunks of COPY, cancel, notifications. */
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static PGconn *open_connection(void)
{
    PGconn *connection = PQconnectdb("");
    if (PQstatus(connection) != CONNECTION_OK)
        fail("%s", PQerrorMessage(connection));
    return connection;
}

static void expect(PGresult *result, ExecStatusType status, const char *value)
{
    if (PQresultStatus(result) != status)
        fail("%s instead of %s: %s", PQresStatus(PQresultStatus(result)), PQresStatus(status), PQresultErrorMessage(result));
    if (value && status == PGRES_TUPLES_OK && strcmp(PQgetvalue(result, 0, 0), value))
        fail("%s instead of %s", PQgetvalue(result, 0, 0), value);
    if (value && status == PGRES_FATAL_ERROR && strcmp(PQresultErrorField(result, PG_DIAG_SQLSTATE), value))
        fail("%s instead of %s", PQresultErrorField(result, PG_DIAG_SQLSTATE), value);
    PQclear(result);
}

/* The result of one statement of a pipeline and the NULL behind it. */
static void next(PGconn *connection, ExecStatusType status, const char *value)
{
    PGresult *result = PQgetResult(connection);
    if (!result)
        fail("no result, %s was expected", PQresStatus(status));
    expect(result, status, value);
    if (status != PGRES_PIPELINE_SYNC && PQgetResult(connection))
        fail("more than one result");
}

static void ask(PGconn *connection, const char *sql, const char *parameter)
{
    if (!PQsendQueryParams(connection, sql, parameter ? 1 : 0, NULL, &parameter, NULL, NULL, 0))
        fail("%s", PQerrorMessage(connection));
}

/* Two pipelines at once: errors, aborted statements, a transaction in three parts, statements prepared in the pipeline. */
static void pipelines(void)
{
    PGconn *pair[2] = {open_connection(), open_connection()};
    char number[20];
    for (int k = 0; k < 2; k++) {
        PQsetnonblocking(pair[k], 1);
        if (!PQenterPipelineMode(pair[k]))
            fail("no pipeline mode");
        PQsendPrepare(pair[k], "p", k ? "select $1::int + 2" : "select $1::int + 1", 0, NULL);
        PQpipelineSync(pair[k]);
    }
    for (int n = 0; n < 200; n++)
        for (int k = 0; k < 2; k++) {
            const char *parameter = number;
            snprintf(number, sizeof number, "%d", n);
            PQsendQueryPrepared(pair[k], "p", 1, &parameter, NULL, NULL, 0);
            if (n % 10 == 9)
                PQpipelineSync(pair[k]);
            PQflush(pair[k]);
        }
    for (int k = 0; k < 2; k++) {
        PQsetnonblocking(pair[k], 0);
        PQflush(pair[k]);
        next(pair[k], PGRES_COMMAND_OK, NULL);
        next(pair[k], PGRES_PIPELINE_SYNC, NULL);
        for (int n = 0; n < 200; n++) {
            snprintf(number, sizeof number, "%d", n + 1 + k);
            next(pair[k], PGRES_TUPLES_OK, number);
            if (n % 10 == 9)
                next(pair[k], PGRES_PIPELINE_SYNC, NULL);
        }
    }
    PGconn *c = pair[0];
    ask(c, "create table piped (n int primary key)", NULL);
    PQpipelineSync(c);
    ask(c, "begin", NULL);
    ask(c, "insert into piped values ($1)", "1");
    PQpipelineSync(c);
    ask(c, "insert into piped values ($1)", "1");
    ask(c, "select 'skipped'", NULL);
    PQpipelineSync(c);
    ask(c, "rollback", NULL);
    ask(c, "select count(*) from piped", NULL);
    PQpipelineSync(c);
    next(c, PGRES_COMMAND_OK, NULL);
    next(c, PGRES_PIPELINE_SYNC, NULL);
    next(c, PGRES_COMMAND_OK, NULL);
    next(c, PGRES_COMMAND_OK, NULL);
    next(c, PGRES_PIPELINE_SYNC, NULL);
    next(c, PGRES_FATAL_ERROR, "23505");
    next(c, PGRES_PIPELINE_ABORTED, NULL);
    next(c, PGRES_PIPELINE_SYNC, NULL);
    next(c, PGRES_COMMAND_OK, NULL);
    next(c, PGRES_TUPLES_OK, "0");
    next(c, PGRES_PIPELINE_SYNC, NULL);
    /* What stands between two syncs is one transaction. */
    ask(c, "insert into piped values (7)", NULL);
    ask(c, "select 1/0", NULL);
    PQpipelineSync(c);
    ask(c, "select count(*) from piped", NULL);
    PQpipelineSync(c);
    next(c, PGRES_COMMAND_OK, NULL);
    next(c, PGRES_FATAL_ERROR, "22012");
    next(c, PGRES_PIPELINE_SYNC, NULL);
    next(c, PGRES_TUPLES_OK, "0");
    next(c, PGRES_PIPELINE_SYNC, NULL);
    /* Flush without sync: answers come while the batch is open. */
    ask(c, "select 'early'", NULL);
    PQsendFlushRequest(c);
    PQflush(c);
    next(c, PGRES_TUPLES_OK, "early");
    ask(c, "select 'later'", NULL);
    PQpipelineSync(c);
    next(c, PGRES_TUPLES_OK, "later");
    next(c, PGRES_PIPELINE_SYNC, NULL);
    if (!PQexitPipelineMode(c))
        fail("%s", PQerrorMessage(c));
    expect(PQexec(c, "select 'plain'"), PGRES_TUPLES_OK, "plain");
    PQfinish(pair[0]);
    PQfinish(pair[1]);
}

static void rows_and_copies(void)
{
    PGconn *c = open_connection();
    PGresult *result;
    int rows = 0;
    PQsendQuery(c, "select generate_series(1, 5000)");
    PQsetSingleRowMode(c);
    while ((result = PQgetResult(c))) {
        rows += PQresultStatus(result) == PGRES_SINGLE_TUPLE;
        PQclear(result);
    }
    if (rows != 5000)
        fail("%d rows", rows);
    expect(PQexec(c, "create table copied (n int)"), PGRES_COMMAND_OK, NULL);
    expect(PQexec(c, "copy copied from stdin"), PGRES_COPY_IN, NULL);
    for (int n = 0; n < 10000; n++) {
        char line[20];
        PQputCopyData(c, line, snprintf(line, sizeof line, "%d\n", n));
    }
    PQputCopyEnd(c, NULL);
    expect(PQgetResult(c), PGRES_COMMAND_OK, NULL);
    PQgetResult(c);
    expect(PQexec(c, "copy copied from stdin"), PGRES_COPY_IN, NULL);
    PQputCopyEnd(c, "given up");
    expect(PQgetResult(c), PGRES_FATAL_ERROR, "57014");
    PQgetResult(c);
    expect(PQexec(c, "select count(*) from copied"), PGRES_TUPLES_OK, "10000");
    PQfinish(c);
}

static void cancels_and_notifications(void)
{
    PGconn *one = open_connection(), *two = open_connection();
    char text[256];
    PGcancel *cancel = PQgetCancel(one);
    PQsendQuery(one, "select pg_sleep(20)");
    usleep(300000);
    if (!PQcancel(cancel, text, sizeof text))
        fail("%s", text);
    expect(PQgetResult(one), PGRES_FATAL_ERROR, "57014");
    PQgetResult(one);
    PQfreeCancel(cancel);
    expect(PQexec(one, "listen talk"), PGRES_COMMAND_OK, NULL);
    expect(PQexec(two, "notify talk, 'hello'"), PGRES_COMMAND_OK, NULL);
    PGnotify *heard = NULL;
    for (int n = 0; n < 100 && !(heard = PQnotifies(one)); n++) {
        struct timeval limit = {0, 100000};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(PQsocket(one), &set);
        select(PQsocket(one) + 1, &set, NULL, NULL, &limit);
        PQconsumeInput(one);
    }
    if (!heard || strcmp(heard->extra, "hello"))
        fail("nothing heard");
    PQfreemem(heard);
    PQfinish(one);
    PQfinish(two);
}

int main(void)
{
    pipelines();
    puts("passed: pipelines of two connections at once");
    rows_and_copies();
    puts("passed: single rows and COPY");
    cancels_and_notifications();
    puts("passed: cancel and notifications");
    puts("all passed");
    return 0;
}
