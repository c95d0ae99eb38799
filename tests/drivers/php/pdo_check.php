<?php
// PDO: prepared and emulated statements, transactions, cursors, COPY, notifications, large objects; the pgsql functions.

$checks = [];
function check(string $claim, callable $run): void
{
    global $checks;
    $checks[$claim] = $run;
}

function same($got, $want): void
{
    if ($got !== $want) {
        throw new Exception('got ' . var_export($got, true) . ' instead of ' . var_export($want, true));
    }
}

function connect(array $options = [], string $more = ''): PDO
{
    $dsn = sprintf('pgsql:host=%s;port=%s;dbname=%s%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'), $more);
    return new PDO($dsn, getenv('PGUSER'), getenv('PGPASSWORD'), $options + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function failure(callable $run): string
{
    try {
        $run();
    } catch (PDOException $error) {
        return (string) $error->getCode();
    }
    return 'no error';
}

function value(PDO $db, string $sql, array $args = [])
{
    $statement = $db->prepare($sql);
    $statement->execute($args);
    return $statement->fetchColumn();
}

check('prepared statements of two connections: both name theirs pdo_stmt_1, and DEALLOCATE them by SQL', function () {
    [$one, $two] = [connect(), connect()];
    for ($round = 0; $round < 10; $round++) {
        $a = $one->prepare('select ?::int + 1');
        $b = $two->prepare('select ?::int + 2');
        for ($n = 0; $n < 5; $n++) {
            $a->execute([$n]);
            $b->execute([$n]);
            same([$a->fetchColumn(), $b->fetchColumn()], [$n + 1, $n + 2]);
        }
        $c = $one->prepare('select :name::text');
        $c->execute(['name' => "ä$round"]);
        same($c->fetchColumn(), "ä$round");
        unset($a, $b, $c);
    }
    same(value($one, "select count(*) from pg_prepared_statements where name = 'pdo_stmt_00000001'") <= 1, true);
});

check('emulated and unprepared statements', function () {
    foreach ([[PDO::ATTR_EMULATE_PREPARES => true], [PDO::PGSQL_ATTR_DISABLE_PREPARES => true]] as $options) {
        [$one, $two] = [connect($options), connect($options)];
        for ($n = 0; $n < 10; $n++) {
            same(value($one, 'select ?::int * 2', [$n]), $n * 2);
            same(value($two, 'select ?::text', ["x'$n"]), "x'$n");
        }
    }
});

check('transactions, savepoints, errors, read-only', function () {
    [$one, $two] = [connect(), connect()];
    $one->exec('create table accounts (n int primary key)');
    $one->beginTransaction();
    $one->exec('insert into accounts values (1)');
    same(value($two, 'select count(*) from accounts'), 0);
    $one->exec('savepoint a');
    same(failure(fn () => $one->exec('insert into accounts values (1)')), '23505');
    same(failure(fn () => $one->query('select 1')), '25P02');
    $one->exec('rollback to a');
    $one->commit();
    same($one->inTransaction(), false);
    $two->beginTransaction();
    $two->exec('delete from accounts');
    $two->rollBack();
    same(value($one, 'select count(*) from accounts'), 1);
    $one->exec('begin isolation level serializable read only');
    same(failure(fn () => value($one, 'delete from accounts where n = ?', [1])), '25006');
    $one->exec('rollback');
});

check('a persistent connection that is taken again', function () {
    for ($n = 0; $n < 3; $n++) {
        $db = connect([PDO::ATTR_PERSISTENT => true]);
        same(value($db, 'select ?::int', [$n]), $n);
        $db = null;
    }
});

check('a scrolled cursor, which is one of SQL', function () {
    $db = connect();
    $db->beginTransaction();
    $statement = $db->prepare('select generate_series(1, 100)', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    $statement->execute();
    same($statement->fetchColumn(), 1);
    same($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 50), [50]);
    same($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_PRIOR), [49]);
    $statement = null;
    $db->commit();
});

check('COPY in both directions', function () {
    $db = connect();
    $db->exec('create table copied (n int, s text)');
    $rows = array_map(fn ($n) => "$n\trow $n\n", range(0, 9999));
    $db->pgsqlCopyFromArray('copied', $rows);
    same(count($db->pgsqlCopyToArray('copied')), 10000);
    same(failure(fn () => $db->pgsqlCopyFromArray('copied', ["x\ty"])), '22P02');
    same(value($db, 'select count(*) from copied'), 10000);
});

check('notifications', function () {
    [$one, $two] = [connect(), connect()];
    $one->exec('listen talk');
    $two->exec("notify talk, 'hello'");
    $heard = $one->pgsqlGetNotify(PDO::FETCH_ASSOC, 10000);
    same([$heard['message'], $heard['payload']], ['talk', 'hello']);
    $one->exec("notify talk, 'own'");
    $heard = $one->pgsqlGetNotify(PDO::FETCH_ASSOC, 10000);
    same([$heard['payload'], $heard['pid'] === $one->pgsqlGetPid()], ['own', true]);
});

check('large objects', function () {
    $db = connect();
    $db->beginTransaction();
    $oid = $db->pgsqlLOBCreate();
    $stream = $db->pgsqlLOBOpen($oid, 'w');
    fwrite($stream, str_repeat('x', 50000));
    fclose($stream);
    $db->commit();
    $db->beginTransaction();
    same(strlen(stream_get_contents($db->pgsqlLOBOpen($oid, 'r'))), 50000);
    $db->pgsqlLOBUnlink($oid);
    $db->commit();
});

check('settings of two connections, and advisory locks as migrators take them', function () {
    [$one, $two] = [connect([], ";options='-c timezone=Asia/Tokyo'"), connect()];
    $two->exec("set search_path to pg_catalog; set app.tenant to 'two'");
    for ($n = 0; $n < 5; $n++) {
        same(value($one, 'show timezone'), 'Asia/Tokyo');
        same(value($two, "select current_setting('search_path') || current_setting('app.tenant')"), 'pg_catalogtwo');
    }
    same(value($one, 'select pg_try_advisory_lock(?)', [55]), true);
    same(value($two, 'select pg_try_advisory_lock(?)', [55]), false);
    $one = null;
    $two->exec("set lock_timeout to '10s'");
    $two->exec('select pg_advisory_lock(55)');
    same(value($two, 'select pg_advisory_unlock(55)'), true);
});

check('the pgsql functions: parameters, prepare, asynchronous queries, cancel', function () {
    $db = pg_connect('', PGSQL_CONNECT_FORCE_NEW);
    same(pg_fetch_result(pg_query_params($db, 'select $1::int + 1', [41]), 0, 0), '42');
    pg_prepare($db, 'named', 'select $1::text');
    for ($n = 0; $n < 5; $n++) {
        same(pg_fetch_result(pg_execute($db, 'named', ["v$n"]), 0, 0), "v$n");
    }
    pg_send_query($db, 'select pg_sleep(20)');
    usleep(300000);
    same(pg_cancel_query($db), true);
    same(pg_fetch_result(pg_query($db, 'select 1'), 0, 0), '1');
    pg_send_query($db, 'select 1; select 2');
    $got = [];
    while ($result = pg_get_result($db)) {
        $got[] = pg_fetch_result($result, 0, 0);
    }
    same($got, ['1', '2']);
    pg_close($db);
});

foreach ($checks as $claim => $run) {
    try {
        $run();
    } catch (Throwable $error) {
        fwrite(STDERR, "failed: $claim\n$error\n");
        exit(1);
    }
    echo "passed: $claim\n";
}
echo "all passed\n";
