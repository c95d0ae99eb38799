// node-postgres: parameters, named statements, a pool, cursors, streams, COPY, LISTEN, cancel by time limit.
const { Client, Pool, types } = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const copy = require('pg-copy-streams');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const { assert, check, runAll, until } = require('./checks');

const connect = async (options) => {
  const client = new Client(options);
  await client.connect();
  return client;
};

check('parameters of many types', async () => {
  const client = await connect();
  const { rows, fields } = await client.query(
    'select $1::int as n, $2::text as s, $3::jsonb as j, $4::int[] as a, $5::bytea as b, $6::timestamptz as t, null as z',
    [7, 'ä€😀', { a: [1] }, [1, null], Buffer.from([0, 255]), new Date(0)],
  );
  assert.deepEqual(rows[0], { n: 7, s: 'ä€😀', j: { a: [1] }, a: [1, null], b: Buffer.from([0, 255]), t: new Date(0), z: null });
  assert.equal(fields[0].dataTypeID, types.builtins.INT4);
  await client.end();
});

check('named prepared statements of two clients with one name', async () => {
  const [one, two] = [await connect(), await connect()];
  for (let n = 0; n < 20; n += 1) {
    const [a, b] = await Promise.all([
      one.query({ name: 'same', text: 'select $1::int + 1 as r', values: [n] }),
      two.query({ name: 'same', text: "select $1::text || 'x' as r", values: [String(n)] }),
    ]);
    assert.deepEqual([a.rows[0].r, b.rows[0].r], [n + 1, `${n}x`]);
  }
  await Promise.all([one.end(), two.end()]);
});

check('many queries on one client, sent one behind another', async () => {
  const client = await connect();
  const answers = await Promise.all(Array.from({ length: 100 }, (_, n) => client.query('select $1::int as n', [n])));
  assert.deepEqual(answers.map((a) => a.rows[0].n), Array.from({ length: 100 }, (_, n) => n));
  const lists = await client.query('select 1 as a; select 2 as b, 3 as c');
  assert.deepEqual(lists.map((r) => r.rows), [[{ a: 1 }], [{ b: 2, c: 3 }]]);
  await client.end();
});

check('transactions, savepoints and errors', async () => {
  const [one, two] = [await connect(), await connect()];
  await one.query('create table accounts (n int primary key)');
  await one.query('begin');
  await one.query('insert into accounts values ($1)', [1]);
  assert.equal((await two.query('select count(*)::int as c from accounts')).rows[0].c, 0);
  await one.query('savepoint a');
  await assert.rejects(one.query('insert into accounts values ($1)', [1]), { code: '23505', constraint: 'accounts_pkey' });
  await assert.rejects(one.query('select 1'), { code: '25P02' });
  await one.query('rollback to a');
  await one.query('commit');
  assert.equal((await two.query('select count(*)::int as c from accounts')).rows[0].c, 1);
  await one.query('begin isolation level serializable read only');
  assert.equal((await one.query('show transaction_isolation')).rows[0].transaction_isolation, 'serializable');
  await one.query('rollback');
  await Promise.all([one.end(), two.end()]);
});

check('a pool: each gets its own answers, clients that are released dirty keep nothing for others', async () => {
  const pool = new Pool({ max: 6 });
  await Promise.all(
    Array.from({ length: 300 }, async (_, n) => {
      const { rows } = await pool.query('select $1::text as marker', [`marker ${n}`]);
      assert.equal(rows[0].marker, `marker ${n}`);
    }),
  );
  const client = await pool.connect();
  await client.query("set timezone = 'Asia/Tokyo'");
  for (let n = 0; n < 5; n += 1) assert.equal((await client.query('show timezone')).rows[0].TimeZone, 'Asia/Tokyo');
  const other = await pool.connect();
  assert.notEqual((await other.query('show timezone')).rows[0].TimeZone, 'Asia/Tokyo');
  other.release();
  client.release(true);
  await pool.end();
});

check('a cursor and a stream, read in parts', async () => {
  const client = await connect();
  const cursor = client.query(new Cursor('select generate_series(1, $1::int) as n', [1000]));
  assert.equal((await cursor.read(10)).length, 10);
  assert.equal((await cursor.read(990)).at(-1).n, 1000);
  assert.equal((await cursor.read(1)).length, 0);
  await cursor.close();
  const half = client.query(new Cursor('select generate_series(1, 1000) as n'));
  await half.read(5);
  await half.close();
  let sum = 0;
  for await (const row of client.query(new QueryStream('select generate_series(1, 3000) as n', [], { batchSize: 100 }))) sum += row.n;
  assert.equal(sum, 4501500);
  assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
  await client.end();
});

check('COPY in both directions', async () => {
  const client = await connect();
  await client.query('create table copied (n int, s text)');
  const lines = Array.from({ length: 20000 }, (_, n) => `${n}\trow ${n}\n`);
  await pipeline(Readable.from(lines), client.query(copy.from('copy copied from stdin')));
  const chunks = [];
  for await (const chunk of client.query(copy.to('copy (select * from copied order by n) to stdout'))) chunks.push(chunk);
  assert.equal(Buffer.concat(chunks).toString(), lines.join(''));
  await assert.rejects(pipeline(Readable.from(['x\ty\n']), client.query(copy.from('copy copied from stdin'))), { code: '22P02' });
  assert.equal((await client.query('select count(*)::int as c from copied')).rows[0].c, 20000);
  await client.end();
});

check('LISTEN and NOTIFY, own notifications, UNLISTEN', async () => {
  const [one, two] = [await connect(), await connect()];
  const heard = [];
  one.on('notification', (message) => heard.push([message.payload, message.processId === one.processID]));
  await one.query('listen talk');
  await two.query("select pg_notify('talk', $1)", ['from two']);
  await one.query("notify talk, 'from one'");
  await until('both notifications', () => heard.length === 2);
  assert.deepEqual(heard, [['from two', false], ['from one', true]]);
  await one.query('unlisten talk');
  await two.query("notify talk, 'unheard'");
  await one.query('select 1');
  assert.equal(heard.length, 2);
  await Promise.all([one.end(), two.end()]);
});

check('statements are cancelled by the server\'s time limit and by pg_cancel_backend', async () => {
  const one = await connect({ statement_timeout: 300 });
  await assert.rejects(one.query('select pg_sleep(20)'), { code: '57014' });
  assert.equal((await one.query('show statement_timeout')).rows[0].statement_timeout, '300ms');
  const two = await connect({ query_timeout: 300 });
  await assert.rejects(two.query('select pg_sleep(1)'), /timeout/);
  await Promise.all([one.end(), two.end()]);
});

check('a client that ends in the middle of a transaction leaves no lock', async () => {
  const [one, two] = [await connect(), await connect()];
  await one.query('create table locked (n int); insert into locked values (1)');
  await one.query('begin');
  await one.query('select * from locked for update');
  await one.query('select pg_advisory_lock(77)');
  one.on('error', () => {});
  one.connection.stream.destroy();
  await two.query("set lock_timeout = '10s'");
  await two.query('update locked set n = 2');
  await two.query('select pg_advisory_lock(77), pg_advisory_unlock(77)');
  await two.end();
});

runAll();
