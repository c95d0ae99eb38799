// postgres.js: pipelined by default, prepared statements by hash, cursors, COPY, LISTEN, cancel.
const postgres = require('postgres');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const { assert, check, runAll, until } = require('./checks');

const open = (options) => postgres(process.env.DATABASE_URL, { onnotice: () => {}, ...options });

check('parameters of many types', async () => {
  const sql = open();
  const [row] = await sql`select ${7}::int as n, ${'ä€😀'}::text as s, ${sql.json({ a: [1] })}::jsonb as j, ${[1, 2]}::int[] as a, ${Buffer.from([0, 255])}::bytea as b, ${new Date(0)}::timestamptz as t`;
  assert.deepEqual({ ...row }, { n: 7, s: 'ä€😀', j: { a: [1] }, a: [1, 2], b: Buffer.from([0, 255]), t: new Date(0) });
  await sql.end();
});

check('pipelined statements over few connections get their own answers', async () => {
  const sql = open({ max: 3 });
  await Promise.all(
    Array.from({ length: 500 }, async (_, n) => {
      const [row] = await sql`select ${n}::int as n, ${`m${n}`}::text as m`;
      assert.deepEqual({ ...row }, { n, m: `m${n}` });
    }),
  );
  await sql.end();
});

check('an error between pipelined statements is its own statement\'s only', async () => {
  const sql = open({ max: 1 });
  const answers = await Promise.allSettled([sql`select 1 as a`, sql`select 1 / ${0}::int`, sql`select 2 as a`, sql`select * from nosuch`, sql`select 3 as a`]);
  assert.deepEqual(answers.map((a) => a.value?.[0].a ?? a.reason.code), [1, '22012', 2, '42P01', 3]);
  await sql.end();
});

check('begin(), savepoint(), and what is pipelined inside', async () => {
  const sql = open({ max: 4 });
  await sql`create table accounts (n int primary key)`;
  await sql.begin('isolation level repeatable read', async (tx) => {
    await Promise.all([tx`insert into accounts values (1)`, tx`insert into accounts values (2)`]);
    await assert.rejects(tx.savepoint(async (sp) => sp`insert into accounts values (1)`), { code: '23505' });
    const [{ transaction_isolation: level }] = await tx`show transaction_isolation`;
    assert.equal(level, 'repeatable read');
  });
  await assert.rejects(sql.begin(async (tx) => { await tx`insert into accounts values (3)`; throw new Error('no'); }), /no/);
  const [{ c }] = await sql`select count(*)::int as c from accounts`;
  assert.equal(c, 2);
  await Promise.all(Array.from({ length: 20 }, (_, n) => sql.begin((tx) => [tx`insert into accounts values (${n + 10})`, tx`select 1`])));
  assert.equal((await sql`select count(*)::int as c from accounts`)[0].c, 22);
  await sql.end();
});

check('reserved connections keep their settings', async () => {
  const sql = open({ max: 3 });
  const [one, two] = [await sql.reserve(), await sql.reserve()];
  await one`set timezone = 'Asia/Tokyo'`;
  await two`set timezone = 'Africa/Nairobi'`;
  for (let n = 0; n < 5; n += 1) {
    const [[a], [b]] = await Promise.all([one`show timezone`, two`show timezone`]);
    assert.deepEqual([a.TimeZone, b.TimeZone], ['Asia/Tokyo', 'Africa/Nairobi']);
  }
  one.release();
  two.release();
  await sql.end();
});

check('a cursor', async () => {
  const sql = open({ max: 1 });
  let sum = 0;
  for await (const rows of sql`select generate_series(1, 1000) as n`.cursor(100)) sum += rows.reduce((a, r) => a + r.n, 0);
  assert.equal(sum, 500500);
  await sql`select generate_series(1, 1000) as n`.cursor(10, () => sql.CLOSE);
  assert.equal((await sql`select 1 as one`)[0].one, 1);
  await sql.end();
});

check('COPY in both directions', async () => {
  const sql = open({ max: 2 });
  await sql`create table copied (n int, s text)`;
  const lines = Array.from({ length: 10000 }, (_, n) => `${n}\trow ${n}\n`);
  await pipeline(Readable.from(lines), await sql`copy copied from stdin`.writable());
  const chunks = [];
  for await (const chunk of await sql`copy (select * from copied order by n) to stdout`.readable()) chunks.push(chunk);
  assert.equal(Buffer.concat(chunks).toString(), lines.join(''));
  await sql.end();
});

check('listen() and notify()', async () => {
  const sql = open({ max: 2 });
  const heard = [];
  const { unlisten } = await sql.listen('talk', (payload) => heard.push(payload));
  await sql.notify('talk', 'one');
  await sql.begin(async (tx) => { await tx.notify('talk', 'two'); });
  await until('both notifications', () => heard.length === 2);
  assert.deepEqual(heard, ['one', 'two']);
  await unlisten();
  await sql.notify('talk', 'unheard');
  await sql`select 1`;
  assert.equal(heard.length, 2);
  await sql.end();
});

check('cancel() ends one statement', async () => {
  const sql = open({ max: 2 });
  const slow = sql`select pg_sleep(20)`;
  setTimeout(() => slow.cancel(), 300);
  await assert.rejects(slow, { code: '57014' });
  assert.equal((await sql`select 1 as one`)[0].one, 1);
  await sql.end();
});

check('statements that are not prepared, and several in one', async () => {
  const sql = open({ max: 2, prepare: false });
  for (let n = 0; n < 10; n += 1) assert.equal((await sql`select ${n}::int as n`)[0].n, n);
  const several = await sql`select 1 as a; select 2 as b`.simple();
  assert.deepEqual(several.map((rows) => ({ ...rows[0] })), [{ a: 1 }, { b: 2 }]);
  await sql.end();
});

runAll();
